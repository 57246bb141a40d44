"""The request of a reproduction, checked before anything is written."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrat.checks import PATHS, TEXT, Rule, check_fields, instance, tuple_of, whole
from lrat.config import catalogue
from lrat.errors import ConfigurationError, UnknownNameError
from lrat.reproduce.paper import FIGURES, PARTS
from lrat.reproduce.presets import Choice, check_row
from lrat.reproduce.studies import check_studies

_MOST_SEEDS = 10_000
TABLES = ("table1", "table2")
SENSITIVITY = "sensitivity"
TARGETS = (
    *TABLES,
    *(f"{name}{part}" for name in FIGURES for part in ("", *PARTS.get(name, ""))),
    SENSITIVITY,
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to make (``target``) of which preset, and where.

    ``rows`` (of a sensitivity: studies) and ``seeds`` None: the preset's. ``limit``: so many test
    images meet the suite, None: the preset's number; ``suite`` None: the target's own. ``workers``
    None: one per processor, on a GPU one. ``also``: results folders of other presets, whose models
    Figure 2 shows too. ``command``: as it was typed, for the record.
    """

    target: str
    choice: Choice
    out: Path
    rows: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    workers: int | None = None
    suite: str | None = None
    limit: int | None = None
    also: tuple[Path, ...] = ()
    command: str = ""

    def __post_init__(self) -> None:
        check_fields(
            self,
            "",
            target=TEXT,
            choice=instance(Choice, need="a Choice of a preset", example="Choice.of('digits')"),
            rows=tuple_of(str, least=1, need="names of rows", example="('sat', 'lrat-saa')"),
            seeds=Rule(_seeds, "whole numbers >= 0, each once", (0, 1)),
            suite=TEXT,
            also=PATHS,
            command=TEXT,
        )
        check_target(self.target)
        if self.suite is not None:
            catalogue.check_suite_name(self.suite)
        if self.also and self.target != "figure2":
            raise ConfigurationError(f"--also does nothing for {self.target}: it is for figure2")

    def seeds_of(self, row: str) -> tuple[int, ...]:
        """``seeds``, or the preset's for this row."""
        return self.choice.seeds_of(row) if self.seeds is None else self.seeds


def _seeds(value: Any) -> tuple[int, ...]:
    seeds = tuple(map(whole(0, example=0).take, value))
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError
    return seeds


def check_target(name: str) -> str:
    """``UnknownNameError`` for what cannot be reproduced."""
    if name not in TARGETS:
        raise UnknownNameError("target", name, TARGETS)
    return name


def seeds_in(text: str) -> tuple[int, ...]:
    """``3`` is three seeds, 0 to 2; ``0,2`` (or ``2,``) is a list of them."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    if not all(re.fullmatch(r"-?\d+", part) for part in parts):
        raise ConfigurationError(
            f"seeds {text!r}: write how many, as 3, or which, as 0,2 (one of them: 2,)"
        )
    numbers = [int(part) for part in parts]
    if "," not in text:
        if not 1 <= numbers[0] <= _MOST_SEEDS:
            raise ConfigurationError(
                f"seeds {text}: at least 1, at most {_MOST_SEEDS} (which one: 0,)"
            )
        return tuple(range(numbers[0]))
    for number in numbers:
        if number < 0:
            raise ConfigurationError(f"seeds {text!r}: {number} is negative; seeds count from 0")
        if numbers.count(number) > 1:
            raise ConfigurationError(f"seeds {text!r}: {number} is there twice; name each once")
    return tuple(numbers)


def rows_in(text: str, target: str) -> tuple[str, ...]:
    """``sat,lrat-saa``: names of rows, each once; of a sensitivity those of its studies."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise ConfigurationError("rows: name at least one, as sat,lrat-saa")
    if target == SENSITIVITY:
        return check_studies(dict.fromkeys(names))
    rows = [check_row(name) for name in names]
    twice = sorted({row for row in rows if rows.count(row) > 1})
    if twice:
        raise ConfigurationError(f"rows {text!r}: {twice[0]} is there twice; name each once")
    return tuple(rows)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What to show: tables by title, a paragraph, and where everything was written. ``about``: for
    the folder's history; ``failed``: runs that could not be trained, and why."""

    tables: Mapping[str, Sequence[Sequence[str]]]
    conclusion: str
    paths: tuple[Path, ...]
    about: str = ""
    failed: tuple[str, ...] = ()
    seconds: float = 0.0
