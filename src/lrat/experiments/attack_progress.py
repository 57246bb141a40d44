"""What people see of an evaluation while it runs."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as Bars
from rich.progress import TaskID

from lrat.cli.progress import bars_with, say
from lrat.evaluation import Progress
from lrat.experiments.evaluate import ProgressCallback
from lrat.text import duration, visible

_QUIET_SECONDS = 5.0
"""An evaluation that takes no longer than this shows its table alone."""
_BETWEEN_LINES = 10.0


class _Pace:
    """How long the rest takes of an evaluation, which goes batch by batch, attack by attack.

    It rests on the last batch: what an earlier call left on disk comes at once and says nothing.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = clock()
        self._at: dict[str, Progress] = {}
        self._seconds_per_image: dict[str, float] = {}
        self._knows_all = False

    def add(self, progress: Progress) -> None:
        now, before = self._clock(), self._at.get(progress.attack)
        self._knows_all |= before is not None
        images = progress.done - (0 if before is None else before.done)
        self._seconds_per_image[progress.attack] = (now - self._last) / max(images, 1)
        self._at[progress.attack] = progress
        self._last = now

    @property
    def seconds_left(self) -> float | None:
        """None before the second batch, as there may be attacks that have not begun yet."""
        left = 0.0
        for name, progress in self._at.items():
            if progress.total is None or not self._knows_all:
                return None
            left += self._seconds_per_image[name] * (progress.total - progress.done)
        return left


class _AttackLines:
    """Plain lines where it takes long: when an attack is through, and about per tenth of images."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._pace = _Pace(clock)
        self._started = clock()
        self._last_line = -_BETWEEN_LINES
        self._tenths: dict[str, int] = {}

    def __call__(self, progress: Progress) -> None:
        self._pace.add(progress)
        now, total = self._clock() - self._started, progress.total
        is_through = progress.done == total
        tenth = progress.done if total is None else 10 * progress.done // total
        is_new = tenth > self._tenths.get(progress.attack, 0)
        if now < _QUIET_SECONDS or not (
            is_through or (is_new and now - self._last_line >= _BETWEEN_LINES)
        ):
            return
        self._tenths[progress.attack] = tenth
        self._last_line = now
        left = self._pace.seconds_left
        say(
            self._console,
            f"{progress.attack}: {progress.done}{'' if total is None else f' of {total}'} images, "
            f"{100 * progress.robust / progress.done:.1f} % stand"
            + (f", about {duration(left)} left" if left else ""),
        )


class _AttackBars:
    """A bar per attack, and one above them with the time that all together still take."""

    def __init__(self, bars: Bars, clock: Callable[[], float]) -> None:
        self._bars = bars
        self._clock = clock
        self._pace = _Pace(clock)
        self._started = clock()
        self._all = bars.add_task("evaluation", total=None, state="")
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, progress: Progress) -> None:
        self._pace.add(progress)
        if progress.attack not in self._tasks:
            self._tasks[progress.attack] = self._bars.add_task(
                escape(visible(progress.attack)), state=""
            )
        self._bars.update(
            self._tasks[progress.attack],
            completed=progress.done,
            total=progress.total,
            state=f"{progress.robust} of {progress.done} images stand",
        )
        left = self._pace.seconds_left
        if left is not None:
            spent = self._clock() - self._started
            state = f"about {duration(left)} left" if left else ""
            self._bars.update(self._all, completed=spent, total=spent + left, state=state)


@contextmanager
def evaluation_progress() -> Iterator[ProgressCallback]:
    """What to hand to ``evaluate_run``: bars on a terminal, lines elsewhere where it takes long.

    On the error stream, so that the table can be sent into a file.
    """
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _AttackLines(console, time.monotonic)
        return
    with bars_with(console, "state") as bars:
        yield _AttackBars(bars, time.monotonic)
