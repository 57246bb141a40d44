"""The folder of a reproduction: where everything lies, whether it may be used, its history."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lrat.config.settings import differences, parse_assignments
from lrat.errors import RunFolderError
from lrat.files.names import FIGURES, WEIGHTS
from lrat.files.read import is_there, read_record
from lrat.files.write import write_json
from lrat.reproduce.presets import Choice
from lrat.runs.lock import alone

PRESET = "preset.json"
RUNS = "runs"
SENSITIVITY = "sensitivity"
HISTORY = "history.json"

_RUN = re.compile(r"(?P<row>.+)-seed-(?P<seed>\d+)")

# Earlier versions wrote a README.md.
_OURS = {FIGURES, HISTORY, PRESET, "README.md", RUNS, SENSITIVITY}
_OURS_IN_PARTS = ("table1.", "table2.", "sensitivity.", ".")


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run of a reproduction whose training is finished."""

    row: str
    seed: int
    folder: Path


def run_name(row: str, seed: int) -> str:
    """``lrat-saa+cw-seed-0``."""
    return f"{row}-seed-{seed}"


def run_folder(out: Path, row: str, seed: int) -> Path:
    """``OUT/runs/ROW-seed-S``, as ``lrat train`` writes it."""
    return out / RUNS / run_name(row, seed)


def finished_runs(out: Path) -> list[FinishedRun]:
    """The runs below ``out/runs`` whose training is finished, by row and seed."""
    runs = []
    for folder in (out / RUNS).glob("*-seed-*"):
        named = _RUN.fullmatch(folder.name)
        if named is not None and (folder / WEIGHTS).is_file():
            runs.append(FinishedRun(row=named["row"], seed=int(named["seed"]), folder=folder))
    return sorted(runs, key=lambda run: (run.row, run.seed))


def check(out: Path, choice: Choice) -> None:
    """``RunFolderError`` for a file, a folder of something else, and one of another preset."""
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"{out} is a file: choose another --out")
    if not out.exists():
        return
    if not is_there(out / PRESET):
        names = sorted(path.name for path in out.iterdir())
        others = [n for n in names if n not in _OURS and not n.startswith(_OURS_IN_PARTS)]
        if others:
            raise RunFolderError(
                f"{out} holds files of something else ({others[0]}): choose another --out"
            )
        return
    stored, ours = read_preset(out), choice.record()
    if stored.get("preset") != ours["preset"]:
        raise RunFolderError(
            f"{out} holds the preset {stored.get('preset')!r}, not {ours['preset']!r}: choose "
            "another --out"
        )
    methods = differences(_of_methods(ours), _of_methods(stored))
    if stored.get("digest") != ours["digest"] or methods:
        settings = differences(ours["settings"], dict(stored.get("settings", {})))
        reasons = "; ".join((*settings, *methods)) or "made by another version"
        raise RunFolderError(
            f"{out} holds the preset {ours['preset']!r} with other settings ({reasons}): choose "
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


def note_in_history(out: Path, target: str, command: str, *, seconds: float, about: str) -> None:
    """Note in ``history.json`` that ``command`` finished ``target`` now, after these seconds."""
    entry = {
        "command": command,
        "finished": datetime.now(UTC).isoformat(timespec="minutes"),
        "seconds": round(seconds),
        "about": about,
    }
    # Another command that ends now would otherwise lose this entry.
    with alone(out / f".{HISTORY}"):
        entries = read_record(out / HISTORY, "remove it, it is begun anew", may_lack=True)
        write_json(out / HISTORY, {**entries, target: entry})
