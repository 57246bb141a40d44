"""Whether a results folder may be used, and what it says about its preset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrat.config.settings import differences, parse_assignments
from lrat.errors import RunFolderError
from lrat.files.read import is_there, read_record
from lrat.files.write import write_json
from lrat.reproduce.folder import FIGURES, HISTORY, PRESET, README, RUNS, SENSITIVITY
from lrat.reproduce.presets import Choice

_OURS = {FIGURES, HISTORY, PRESET, README, RUNS, SENSITIVITY}
_OURS_IN_PARTS = ("table1.", "table2.", "sensitivity.", ".")


def check(out: Path, choice: Choice) -> None:
    """``RunFolderError`` for a file, a folder of something else, and one of another preset."""
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"{out} is a file: choose another --out")
    if not out.exists():
        return
    if not is_there(out / PRESET):
        others = sorted(path.name for path in out.iterdir() if not _is_ours(path.name))
        if others:
            raise RunFolderError(
                f"{out} holds files of something else ({others[0]}): choose another --out"
            )
        return
    stored, own = read_preset(out), choice.record()
    if stored.get("preset") != own["preset"]:
        raise RunFolderError(
            f"{out} holds the preset {stored.get('preset')!r}, not {own['preset']!r}: choose "
            "another --out"
        )
    found = differences(_of_methods(own), _of_methods(stored))
    if stored.get("digest") != own["digest"] or found:
        found = [*differences(own["settings"], dict(stored.get("settings", {}))), *found]
        told = "; ".join(found) or "made by another version"
        raise RunFolderError(
            f"{out} holds the preset {own['preset']!r} with other settings ({told}): choose "
            "another --out, or give the same --set"
        )


def claim(out: Path, choice: Choice) -> None:
    """``check``, then begin the folder."""
    check(out, choice)
    if not is_there(out / PRESET):
        write_json(out / PRESET, choice.record())


def read_preset(out: Path) -> dict[str, Any]:
    """What ``preset.json`` says: ``preset``, ``set``, ``settings`` and ``digest``."""
    path, cure = out / PRESET, "remove it, and the same command writes it anew"
    preset = read_record(path, cure, may_lack=True)
    if not preset and not is_there(path):
        raise RunFolderError(
            f"{out} is no folder of `lrat reproduce`: it has no {PRESET}; make a table there first"
        )
    if not _is_preset(preset):
        raise RunFolderError(f"{path} is no preset; {cure}")
    return preset


def _is_preset(values: Mapping[str, Any]) -> bool:
    changed, settings = values.get("set"), values.get("settings")
    return (
        all(isinstance(values.get(name), str) for name in ("preset", "about", "digest"))
        and isinstance(changed, list)
        and all(isinstance(each, str) for each in changed)
        and isinstance(settings, dict)
    )


def _of_methods(record: Mapping[str, Any]) -> dict[str, Any]:
    """The user's own settings of methods, which the digest, the same for all rows, leaves out."""
    assignments = [str(each) for each in record.get("set", ())]
    return {"method": parse_assignments(assignments).get("method", {})}


def _is_ours(name: str) -> bool:
    return name in _OURS or name.startswith(_OURS_IN_PARTS)
