"""Cells of a grid (rows and seeds), each made in a worker process; progress, stop."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Protocol, TypeVar, runtime_checkable

from lrat.distributed.signals import stopping
from lrat.distributed.workers import run_tasks
from lrat.errors import Interrupted
from lrat.files.names import EVALUATIONS, MODEL, SUMMARY
from lrat.text import duration
from lrat.training import EpochRecord, StepProgress


@runtime_checkable
class Ended(Protocol):
    """What a cell's making returns."""

    @property
    def name(self) -> str: ...

    @property
    def seconds(self) -> float: ...

    @property
    def was_finished(self) -> bool:
        """An earlier call finished it, so that ``seconds`` say nothing of what is left."""
        ...


@dataclass(frozen=True, kw_only=True)
class RowsProgress:
    """``done`` of ``total`` rows; the seconds that the others take if they take as long as those
    that were made in this call, None before the first of these."""

    done: int
    total: int
    seconds_left: float | None


@runtime_checkable
class Watcher(Protocol):
    """Told what happens while the cells are made."""

    def say(self, line: str) -> None: ...

    def progress(self, now: RowsProgress) -> None: ...


class Quiet:
    """A run's own progress: the grid has another."""

    def on_step(self, progress: StepProgress) -> None:
        return

    def on_epoch(self, record: EpochRecord) -> None:
        return

    def say(self, line: str) -> None:
        return


Made = TypeVar("Made", bound=Ended)


def finished_files(run: Path) -> frozenset[Path]:
    """What ends a training and each evaluation of ``run``: none is added where all was finished."""
    return frozenset([*run.glob(MODEL), *run.glob(f"{EVALUATIONS}/*/{SUMMARY}")])


def in_order(rounds: Sequence[Sequence[str]], workers: int) -> list[str]:
    """The order to begin cells in, from rounds (one per seed), each in the order of preference.

    A round begins before the next, so that a table is whole for its first seeds early. Within a
    round those with SAA begin first, which cost six times the others, so that no worker is idle
    for long at the end; one worker is never idle and keeps the order of preference.
    """
    if workers == 1:
        return [name for part in rounds for name in part]
    return [name for part in rounds for name in sorted(part, key=lambda name: "saa" not in name)]


def make_cells(
    make: Callable[[str], Made],
    cells: Sequence[str],
    *,
    workers: int,
    watcher: Watcher,
    out: Path,
    what: str = "rows",
    told: Callable[[Made], str] | None = None,
) -> Iterator[Made]:
    """``make(name)`` of every cell, in worker processes, as they end.

    ``make`` must be picklable; what it wrote before it was interrupted is what the next call goes
    on from. ``told``: what to say of a cell that ended, its seconds by default. Raises
    ``Interrupted``, or the ``LratError`` of a cell, when the others have saved themselves.
    """
    started, workers = time.perf_counter(), min(workers, len(cells))
    taken: list[float] = []

    def announce(reason: str) -> None:
        watcher.say(
            f"{reason}: stopping when the rows under way have saved themselves; a second signal "
            "stops at once"
        )

    watcher.progress(RowsProgress(done=0, total=len(cells), seconds_left=None))
    with stopping(announce) as stop:
        try:
            for done, made in enumerate(
                run_tasks(make, cells, workers=workers, stop=stop), start=1
            ):
                taken += [made.seconds] * (not made.was_finished)
                left = fmean(taken) * (len(cells) - done) / workers if taken else None
                ended = f"{made.seconds:.0f} s of one worker" if told is None else told(made)
                line = f"{made.name}: {ended}; {done} of {len(cells)} {what} done"
                if left:
                    elapsed = time.perf_counter() - started
                    line += f", {duration(elapsed)} elapsed, about {duration(left)} left"
                watcher.say(line)
                watcher.progress(RowsProgress(done=done, total=len(cells), seconds_left=left))
                yield made
        except Interrupted as stopped:
            raise Interrupted(
                f"{stopped}; what was trained is saved in {out}: the same command continues"
            ) from None
