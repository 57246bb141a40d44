"""Where everything of a reproduction lies below its folder."""

import re
from dataclasses import dataclass
from pathlib import Path

from lrat.runs.folder import WEIGHTS

PRESET = "preset.json"
RUNS = "runs"
SENSITIVITY = "sensitivity"
FIGURES = "figures"
HISTORY = "history.json"
README = "README.md"

_RUN = re.compile(r"(?P<row>.+)-seed-(?P<seed>\d+)")


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
