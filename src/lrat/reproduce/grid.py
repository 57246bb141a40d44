"""Cells of a grid (rows and seeds), each made in a worker process; progress, forecast, stop."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from lrat.distributed.signals import stopping
from lrat.distributed.workers import run_tasks
from lrat.errors import Interrupted
from lrat.training import EpochRecord, StepProgress

SHORT_EVALUATION, TIER, PAPER, STRONG = 40.0, 680.0, 2_780.0, 5_000.0
EVALUATION_FORWARDS = {
    "quick": SHORT_EVALUATION,
    "tier": TIER,
    "paper": PAPER,
    "strong": STRONG,
}
"""An evaluation's forwards per test image, as most images stand until the end (digits)."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One that a cell makes: ``pattern`` below the cell's folder finds its summary once it is
    finished; ``forwards``: its work per *training* image."""

    pattern: str
    forwards: float


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row with one seed: a run and its evaluations.

    ``forwards``: network forwards of training per image and epoch.
    """

    name: str
    folder: Path
    epochs: int
    forwards: float
    evaluations: tuple[Evaluation, ...] = ()

    @property
    def work(self) -> float:
        """Forwards per training image, all in all."""
        return self.epochs * self.forwards + sum(each.forwards for each in self.evaluations)

    @property
    def epochs_done(self) -> int:
        """Lines of the run's metrics."""
        path = self.folder / "metrics.jsonl"
        return min(self.epochs, path.read_bytes().count(b"\n")) if path.is_file() else 0

    @property
    def done(self) -> float:
        """As ``work``, of what lies in the folder."""
        finished = (each for each in self.evaluations if any(self.folder.glob(each.pattern)))
        return self.epochs_done * self.forwards + sum(each.forwards for each in finished)


@runtime_checkable
class Ended(Protocol):
    """What a cell's making returns."""

    @property
    def name(self) -> str: ...

    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class RowsProgress:
    """How far the cells are: epochs, the ``share`` of the work that is done (0..1), and a forecast,
    None as long as this call has done nothing measurable."""

    epochs: int
    of_epochs: int
    share: float
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


class Forecast:
    """Reads from the cells' folders how much work is done, in forwards of training images."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = tuple(cells)
        self._started = time.perf_counter()
        self._at_start = self._done()

    def now(self) -> RowsProgress:
        total, done = sum(cell.work for cell in self._cells), self._done()
        seconds, here = time.perf_counter() - self._started, done - self._at_start
        return RowsProgress(
            epochs=sum(cell.epochs_done for cell in self._cells),
            of_epochs=sum(cell.epochs for cell in self._cells),
            share=done / total if total else 1.0,
            seconds_left=seconds * (total - done) / here if here > 0 else None,
        )

    def _done(self) -> float:
        return sum(cell.done for cell in self._cells)


Made = TypeVar("Made", bound=Ended)


def in_order_of_work(cells: Sequence[Sequence[Cell]], workers: int) -> list[Cell]:
    """The order to begin cells in, from rounds (one per seed), each in the order of preference.

    A round begins before the next, so that a table is whole for its first seeds early. Within a
    round the costliest begin first, which leaves no worker idle for longer than the cheapest cells
    last; one worker is never idle and keeps the order of preference.
    """
    if workers == 1:
        return [cell for part in cells for cell in part]
    return [cell for part in cells for cell in sorted(part, key=lambda cell: -cell.work)]


def make_cells(
    make: Callable[[str], Made],
    cells: Sequence[Cell],
    *,
    workers: int,
    watcher: Watcher,
    out: Path,
    what: str = "rows",
    told: Callable[[Made], str] | None = None,
) -> Iterator[Made]:
    """``make(cell.name)`` of every cell, in worker processes, as they end.

    ``make`` must be picklable; what it wrote before it was interrupted is what the next call goes
    on from. ``told``: what to say of a cell that ended, its seconds by default. Raises
    ``Interrupted``, or the ``LratError`` of a cell, when the others have saved themselves.
    """
    forecast = Forecast(cells)

    def announce(reason: str) -> None:
        watcher.say(
            f"{reason}: stopping when the rows under way have saved themselves; a second signal "
            "stops at once"
        )

    with stopping(announce) as stop:
        try:
            for number, made in enumerate(
                run_tasks(
                    make,
                    [cell.name for cell in cells],
                    workers=min(workers, len(cells)),
                    stop=stop,
                    tick=lambda: watcher.progress(forecast.now()),
                ),
                start=1,
            ):
                ended = f"{made.seconds:.0f} s of one worker" if told is None else told(made)
                watcher.say(f"{made.name}: {ended}; {number} of {len(cells)} {what} done")
                yield made
        except Interrupted as stopped:
            raise Interrupted(
                f"{stopped}; what was trained is saved in {out}: the same command continues"
            ) from None
