"""The folder of a reproduction: where everything lies, whether it may be used, its history.

Its history says what was made, when and by which command; a README is written from it.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lrat.config.settings import differences, parse_assignments
from lrat.errors import RunFolderError
from lrat.files.read import NOT_AS_WRITTEN, is_there, read_record
from lrat.files.write import write_json, write_text
from lrat.reproduce.presets import Choice
from lrat.runs.folder import ENVIRONMENT, WEIGHTS
from lrat.runs.lock import alone
from lrat.text import to_markdown

PRESET = "preset.json"
RUNS = "runs"
SENSITIVITY = "sensitivity"
FIGURES = "figures"
HISTORY = "history.json"
README = "README.md"

_RUN = re.compile(r"(?P<row>.+)-seed-(?P<seed>\d+)")

_OURS = {FIGURES, HISTORY, PRESET, README, RUNS, SENSITIVITY}
_OURS_IN_PARTS = ("table1.", "table2.", "sensitivity.", ".")

_logger = logging.getLogger(__name__)
_TOLD = ("threat", "data", "model", "training", "attack")
_MACHINE = ("device", "processor", "threads", "torch", "lrat", "commit")


@dataclass(frozen=True, kw_only=True)
class RunPlace:
    """A run of a reproduction: which row, which seed, where."""

    row: str
    seed: int
    folder: Path


def run_name(row: str, seed: int) -> str:
    """``lrat-saa+cw-seed-0``."""
    return f"{row}-seed-{seed}"


def run_folder(out: Path, row: str, seed: int) -> Path:
    """``OUT/runs/ROW-seed-S``, as ``lrat train`` writes it."""
    return out / RUNS / run_name(row, seed)


def finished_runs(out: Path) -> list[RunPlace]:
    """The runs below ``out/runs`` whose training is finished, by row and seed."""
    found = []
    for folder in (out / RUNS).glob("*-seed-*"):
        named = _RUN.fullmatch(folder.name)
        if named is not None and (folder / WEIGHTS).is_file():
            found.append(RunPlace(row=named["row"], seed=int(named["seed"]), folder=folder))
    return sorted(found, key=lambda run: (run.row, run.seed))


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


def note_in_history(out: Path, target: str, command: str, *, seconds: float, about: str) -> None:
    """Keep that ``target`` was finished now, and write the folder's README anew."""
    made = {
        "command": command,
        "finished": datetime.now(UTC).isoformat(timespec="minutes"),
        "seconds": round(seconds),
        "about": about,
    }
    # Another command that ends now would otherwise lose this entry.
    with alone(out / f".{HISTORY}"):
        entries = {**_entries(out), target: made}
        write_json(out / HISTORY, entries)
        write_text(out / README, readme(out, entries))


def readme(out: Path, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """What the folder holds and how it was made, in Markdown."""
    preset = read_preset(out)
    made = [["what", "finished", "took s", "command", "of"]]
    made += [_row(name, entry) for name, entry in sorted(entries.items())]
    changed = ", ".join(f"`{each}`" for each in preset["set"])
    runs = finished_runs(out)
    seeds: dict[str, list[int]] = {}
    for run in runs:
        seeds.setdefault(run.row, []).append(run.seed)
    lines = [
        f"# Reproduction: preset `{preset['preset']}`",
        "",
        f"{preset['about']}." + (f" Settings changed for all rows: {changed}." if changed else ""),
        "",
        "## What was made",
        "",
        to_markdown(made),
        "Times are those of the last call of each command, which may have gone on with earlier "
        "work; what a run took is in its `metrics.jsonl`.",
        "",
        "## Runs",
        "",
        to_markdown([["row", "seeds"], *([row, _listed(each)] for row, each in seeds.items())]),
        f"Each in `{RUNS}/ROW-seed-S`, as `lrat train` writes it, with its evaluations; the "
        "complete settings are its `config.yaml`.",
        "",
        "## Settings of all rows",
        "",
        to_markdown([["setting", "value"], *_settings(preset["settings"])]),
        "## Hardware and versions",
        "",
        to_markdown(_hardware(out)),
    ]
    return "\n".join(lines)


def _row(name: str, entry: Mapping[str, Any]) -> list[str]:
    finished, command, about = (str(entry[key]) for key in ("finished", "command", "about"))
    return [name, finished, str(entry["seconds"]), f"`{command}`", about]


def _entries(out: Path) -> dict[str, dict[str, Any]]:
    path, cure = out / HISTORY, "remove it, it is begun anew"
    entries = read_record(path, cure, may_lack=True)
    try:
        for entry in entries.values():
            _row("", entry)
    except NOT_AS_WRITTEN:
        raise RunFolderError(f"{path} does not say what was made; {cure}") from None
    return entries


def _listed(seeds: list[int]) -> str:
    return " ".join(map(str, sorted(seeds)))


def _settings(settings: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    lines = []
    for key, value in settings.items():
        if not prefix and key not in _TOLD:
            continue
        if isinstance(value, Mapping) and key != "drops":
            lines += _settings(value, f"{prefix}{key}.")
        elif value is not None and value not in ([], ()):
            lines.append([f"{prefix}{key}", str(value)])
    return lines


def _hardware(out: Path) -> list[list[str]]:
    """One line per kind of machine, with the runs that were made on it."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for run in finished_runs(out):
        try:
            found = read_record(run.folder / ENVIRONMENT, "it is shown as unknown")
        except RunFolderError as error:
            _logger.warning("%s", error)
            found = {}
        kind = tuple(str(found.get(key, "unknown")) for key in _MACHINE)
        kinds.setdefault(kind, []).append(run.folder.name)
    return [
        [*_MACHINE, "runs"],
        *([*kind, ", ".join(runs)] for kind, runs in kinds.items()),
    ]
