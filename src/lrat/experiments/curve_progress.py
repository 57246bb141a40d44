"""What people see of security curves while they are measured."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as Bars
from rich.progress import TaskID

from lrat.cli.progress import bars_with, say
from lrat.evaluation.curve import CurveProgress
from lrat.experiments.curves import ProgressCallback
from lrat.text import visible

_BETWEEN_LINES = 10.0


def _state(step: CurveProgress) -> str:
    searching = int(step.brackets.searching.sum())
    return f"{searching} of {len(step.brackets)} images still searched"


class _Lines:
    """A plain line now and then, where it takes long."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._last = clock()

    def __call__(self, run: str, step: CurveProgress) -> None:
        if self._clock() - self._last < _BETWEEN_LINES:
            return
        self._last = self._clock()
        say(self._console, f"{run}: {_state(step)}")


class _RunBars:
    """A bar per run over the attacks on images that are left."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, tuple[TaskID, int]] = {}

    def __call__(self, run: str, step: CurveProgress) -> None:
        left = step.brackets.attacks_left
        if run not in self._tasks:
            total = left + step.attacked
            self._tasks[run] = (
                self._bars.add_task(escape(visible(run)), total=total, state=""),
                total,
            )
        task, total = self._tasks[run]
        self._bars.update(task, completed=max(total - left, 0), state=_state(step))


@contextmanager
def curve_progress() -> Iterator[ProgressCallback]:
    """What to hand to ``measure_curves``: bars on a terminal, else lines; on the error stream."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _Lines(console, time.monotonic)
        return
    with bars_with(console, "state") as bars:
        yield _RunBars(bars)
