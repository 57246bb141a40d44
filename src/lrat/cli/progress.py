"""What people see while a command runs: bars on a terminal, plain lines elsewhere, and tables."""

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from lrat.config.settings import RunConfig
from lrat.evaluation import Progress as EvaluationProgress
from lrat.evaluation.curve import CurveProgress
from lrat.experiments.curves import ProgressCallback as CurveCallback
from lrat.experiments.evaluate import ProgressCallback as EvaluationCallback
from lrat.reproduce.progress import RowsProgress
from lrat.text import duration, percent, visible
from lrat.training import EpochRecord, Progress, StepProgress

_FORECAST_STEPS = 5
_FORECAST_SECONDS = 1.0

_QUIET_SECONDS = 5.0
"""An evaluation that takes no longer than this shows its table alone."""
_BETWEEN_LINES = 10.0


def epoch_line(record: EpochRecord, epochs: int) -> str:
    """One epoch in a line."""
    held_out = "".join(
        f"  held-out {name} {percent(value)}" for name, value in record.validation.items()
    )
    monitored = "".join(f"  {name} {percent(value)}" for name, value in record.monitor.items())
    loss = "–" if record.loss is None else f"{record.loss:.4f}"
    return (
        f"epoch {record.epoch}/{epochs}  loss {loss}  "
        f"robust {percent(record.robust_accuracy)}  clean {percent(record.clean_accuracy)}"
        f"{held_out}{monitored}  {record.images_per_second:.0f} images/s"
    )


def say(console: Console, line: str) -> None:
    """A line as it is: without markup, and with its control characters written out."""
    console.print(visible(line), soft_wrap=True, highlight=False, markup=False)


class _TrainingLines:
    """Plain lines: a forecast before the first epoch ends, then a line per epoch."""

    def __init__(self, console: Console, epochs: int, *, validates: bool) -> None:
        self._console = console
        self._epochs = epochs
        self._without = ", without validation" if validates else ""
        self._steps = 0
        self._forecast_due = True
        self._seconds: list[float] = []

    def on_step(self, progress: StepProgress) -> None:
        self._steps += 1
        left = progress.seconds_left
        if self._forecast_due and left is not None and _knows_enough(progress, self._steps):
            self._forecast_due = False
            self.say(
                f"epoch {progress.epoch}/{self._epochs}  about {duration(left)} to the end of the "
                f"run{self._without}  {progress.images_per_second:.0f} images/s"
            )

    def on_epoch(self, record: EpochRecord) -> None:
        self._forecast_due = False
        self._seconds.append(record.seconds + record.evaluation_seconds)
        left = (self._epochs - record.epoch) * fmean(self._seconds)
        self.say(
            epoch_line(record, self._epochs) + (f"  about {duration(left)} left" if left else "")
        )

    def say(self, line: str) -> None:
        say(self._console, line)


def _knows_enough(progress: StepProgress, steps: int) -> bool:
    """Whether a forecast is due after so many steps of this process: five of them, or a second's,
    but always before the first epoch ends, where it has two steps at least."""
    size = progress.images / progress.step
    seconds = steps * size / progress.images_per_second
    epoch = ceil((progress.images_per_epoch or progress.images) / size)
    return seconds >= _FORECAST_SECONDS or steps >= min(_FORECAST_STEPS, max(1, epoch - 1))


class _TrainingBar:
    """A bar over the whole run, with the last epoch's accuracies beside it."""

    def __init__(self, bars: Bars, task: TaskID, epochs: int, *, validates: bool) -> None:
        self._bars = bars
        self._task = task
        self._epochs = epochs
        self._without = " + validation" if validates else ""

    def on_step(self, progress: StepProgress) -> None:
        size = progress.images_per_epoch
        done = progress.epoch - 1 + (progress.images / size if size else 0)
        left = (
            ""
            if progress.seconds_left is None
            else f"{duration(progress.seconds_left)} left{self._without}"
        )
        self._bars.update(
            self._task,
            completed=done,
            description=f"epoch {progress.epoch}/{self._epochs}",
            speed=f"{progress.images_per_second:.0f} images/s  {left}",
        )

    def on_epoch(self, record: EpochRecord) -> None:
        self._without = ""  # from here on the speed includes it
        self._bars.update(
            self._task,
            completed=record.epoch,
            accuracy=f"robust {percent(record.robust_accuracy)}  "
            f"clean {percent(record.clean_accuracy)}",
        )

    def say(self, line: str) -> None:
        say(self._bars.console, line)


def bars_with(console: Console, *fields: str) -> Bars:
    """Bars that are gone at the end; each task has these ``fields`` as texts behind its own."""
    columns = [TextColumn(f"{{task.fields[{field}]}}") for field in fields]
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        *columns,
        console=console,
        transient=True,
    )


@contextmanager
def training_progress(config: RunConfig) -> Iterator[Progress]:
    """What to hand to ``train_run``."""
    console = Console(file=sys.stdout)
    epochs = config.training.epochs
    validates = bool(config.data.validation or config.training.monitor.attacks)
    if not console.is_terminal:
        yield _TrainingLines(console, epochs, validates=validates)
        return
    with bars_with(console, "speed", "accuracy") as bars:
        task = bars.add_task(config.method.name, total=epochs, speed="", accuracy="")
        yield _TrainingBar(bars, task, epochs, validates=validates)


class Rows:
    """Several runs in worker processes: what was done in words, and a bar over the runs."""

    def __init__(self, console: Console, bars: Bars | None, task: TaskID | None) -> None:
        self._console = console
        self._bars = bars
        self._task = task

    def say(self, line: str) -> None:
        say(self._console, line)

    def progress(self, now: RowsProgress) -> None:
        if self._bars is None or self._task is None:
            return
        left = now.seconds_left
        self._bars.update(
            self._task,
            completed=now.done,
            total=now.total,
            description=f"{now.done} of {now.total} runs",
            left="" if left is None else f"about {duration(left)} left",
        )


@contextmanager
def rows_progress() -> Iterator[Rows]:
    """What to hand to ``run_demo``."""
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        yield Rows(console, None, None)
        return
    with bars_with(console, "left") as bars:
        yield Rows(console, bars, bars.add_task("runs", total=None, left=""))


def show_tables(tables: Mapping[str, Sequence[Sequence[str]]], below: str) -> None:
    """Tables by title, beside each other where the terminal is wide enough, and a text below."""
    console = Console(file=sys.stdout)
    console.print(Columns([_rich_table(title, lines) for title, lines in tables.items()]))
    console.print(visible(below), highlight=False, markup=False)


def _rich_table(title: str, lines: Sequence[Sequence[str]]) -> Table:
    header, *rows = lines
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_narrow(cell) for cell in row))
    return table


def _narrow(cell: str) -> str:
    """``45.2 [40.1, 50.4]`` as ``45.2`` over ``40–50``: six attacks fit into 80 columns."""
    interval = re.fullmatch(r"([\d.]+) \[([\d.]+), ([\d.]+)\]", cell)
    if interval is None:
        return escape(visible(cell))
    value, low, high = interval.groups()
    return f"{value}\n{float(low):.0f}–{float(high):.0f}"


class _Pace:
    """How long the rest takes of an evaluation, which goes batch by batch, attack by attack.

    It rests on the last batch: what an earlier call left on disk comes at once and says nothing.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = clock()
        self._at: dict[str, EvaluationProgress] = {}
        self._seconds_per_image: dict[str, float] = {}
        self._knows_all = False

    def add(self, progress: EvaluationProgress) -> None:
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

    def __call__(self, progress: EvaluationProgress) -> None:
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
            f"{percent(progress.robust / progress.done)} robust"
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

    def __call__(self, progress: EvaluationProgress) -> None:
        self._pace.add(progress)
        if progress.attack not in self._tasks:
            self._tasks[progress.attack] = self._bars.add_task(
                escape(visible(progress.attack)), state=""
            )
        self._bars.update(
            self._tasks[progress.attack],
            completed=progress.done,
            total=progress.total,
            state=f"{progress.robust} of {progress.done} images robust",
        )
        left = self._pace.seconds_left
        if left is not None:
            elapsed = self._clock() - self._started
            state = f"about {duration(left)} left" if left else ""
            self._bars.update(self._all, completed=elapsed, total=elapsed + left, state=state)


@contextmanager
def evaluation_progress() -> Iterator[EvaluationCallback]:
    """What to hand to ``evaluate_run``: bars on a terminal, lines elsewhere where it takes long.

    On the error stream, so that the table can be sent into a file.
    """
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _AttackLines(console, time.monotonic)
        return
    with bars_with(console, "state") as bars:
        yield _AttackBars(bars, time.monotonic)


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
def curve_progress() -> Iterator[CurveCallback]:
    """What to hand to ``measure_curves``: bars on a terminal, else lines; on the error stream."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _Lines(console, time.monotonic)
        return
    with bars_with(console, "state") as bars:
        yield _RunBars(bars)
