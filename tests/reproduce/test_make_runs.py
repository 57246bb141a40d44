"""The order in which runs begin, and what is said of those that ended."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lrat.reproduce.cell import Attacks, MadeRun, RunTask, run_task
from lrat.reproduce.make_runs import in_order, make_cells
from lrat.reproduce.presets import Choice
from lrat.reproduce.progress import RowsProgress


class Watched:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.seen: list[RowsProgress] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, now: RowsProgress) -> None:
        self.seen.append(now)


@pytest.fixture(scope="module")
def task() -> Callable[[str], RunTask]:
    """A run by the name of its folder, of another seed if it ends in one."""
    any_run = run_task(Choice.of("digits"), Path("runs/any"), "sat", 0, Attacks())

    def named(name: str) -> RunTask:
        seed = int(name[-1]) if name[-1].isdigit() else 0
        return replace(any_run, folder=Path("runs") / name, row=name, seed=seed)

    return named


def test_rows_with_saa_begin_first_within_a_seed_unless_one_worker_does_all(
    task: Callable[[str], RunTask],
) -> None:
    tasks = [*map(task, ("sat", "sat-1", "lrat-saa", "lrat-saa-1", "gairat"))]
    two, one = ([each.name for each in in_order(tasks, workers)] for workers in (2, 1))
    assert two == ["lrat-saa", "sat", "gairat", "lrat-saa-1", "sat-1"]
    assert one == ["sat", "lrat-saa", "gairat", "sat-1", "lrat-saa-1"]


def test_what_is_left_follows_from_the_runs_that_were_made_here(
    monkeypatch: pytest.MonkeyPatch, task: Callable[[str], RunTask]
) -> None:
    def ending(make: Any, names: Sequence[str], **settings: Any) -> Iterator[MadeRun]:
        for name, seconds in zip(names, (30.0, 60.0, 120.0, 60.0), strict=True):
            yield MadeRun(name=name, seconds=seconds, was_finished=name == "read back")

    monkeypatch.setattr("lrat.reproduce.make_runs.run_tasks", ending)
    watched = Watched()
    names = ["read back", "b", "c", "d"]
    ended = make_cells([*map(task, names)], workers=2, watcher=watched, out=Path("out"))
    assert [each.name for each in ended] == names
    assert [now.done for now in watched.seen] == [0, 1, 2, 3, 4]
    assert [now.seconds_left for now in watched.seen] == [None, None, 60.0, 45.0, 0.0]
    assert "2 of 4 runs done" in watched.lines[1]
    assert "about 1 min 00 s left" in watched.lines[1]
    assert "left" not in watched.lines[0] + watched.lines[3]
