"""What was made in a results folder, when, by which command, and the README that says so."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lrat.errors import RunFolderError
from lrat.experiments.reproduce.claiming import read_preset
from lrat.files.read import NOT_AS_WRITTEN, read_record
from lrat.files.write import write_json, write_text
from lrat.reproduce.folder import HISTORY, README, RUNS, finished_runs
from lrat.runs.folder import ENVIRONMENT
from lrat.runs.lock import alone
from lrat.text import to_markdown

_logger = logging.getLogger(__name__)
_TOLD = ("threat", "data", "model", "training", "attack")
_MACHINE = ("device", "processor", "threads", "torch", "lrat", "commit")


def note(out: Path, target: str, command: str, *, seconds: float, about: str) -> None:
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
