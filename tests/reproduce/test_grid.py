"""The order in which cells begin, and what is said of those that ended."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lrat.reproduce.grid import RowsProgress, in_order, make_cells


@dataclass(frozen=True)
class Ended:
    name: str
    seconds: float
    was_finished: bool = False


class Watched:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.seen: list[RowsProgress] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, now: RowsProgress) -> None:
        self.seen.append(now)


def test_rows_with_saa_begin_first_within_a_seed_unless_one_worker_does_all() -> None:
    rounds = [["sat", "lrat-saa", "gairat"], ["sat-1", "lrat-saa-1"]]
    assert in_order(rounds, 2) == ["lrat-saa", "sat", "gairat", "lrat-saa-1", "sat-1"]
    assert in_order(rounds, 1) == [name for part in rounds for name in part]


def test_what_is_left_follows_from_the_cells_that_were_made_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ending(make: Any, names: Sequence[str], **settings: Any) -> Iterator[Ended]:
        yield from map(Ended, names, (30.0, 60.0, 120.0, 60.0), (True, False, False, False))

    monkeypatch.setattr("lrat.reproduce.grid.run_tasks", ending)
    watched = Watched()
    names = ["read back", "b", "c", "d"]
    ended = make_cells(Ended, names, workers=2, watcher=watched, out=Path("out"))
    assert [each.name for each in ended] == names
    assert [now.done for now in watched.seen] == [0, 1, 2, 3, 4]
    assert [now.seconds_left for now in watched.seen] == [None, None, 60.0, 45.0, 0.0]
    assert "2 of 4 rows done" in watched.lines[1]
    assert "about 1 min 00 s left" in watched.lines[1]
    assert "left" not in watched.lines[0] + watched.lines[3]
