"""What people see: bars on a terminal, plain lines elsewhere, and tables."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
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
from lrat.reproduce.grid import RowsProgress
from lrat.text import duration, visible
from lrat.training import EpochRecord, Progress, StepProgress

_FORECAST_STEPS = 5
_FORECAST_SECONDS = 1.0


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def epoch_line(record: EpochRecord, epochs: int) -> str:
    """One epoch in a line."""
    held_out = "".join(
        f"  held-out {name} {_percent(value)}" for name, value in record.validation.items()
    )
    monitored = "".join(f"  {name} {_percent(value)}" for name, value in record.monitor.items())
    loss = "–" if record.loss is None else f"{record.loss:.4f}"
    return (
        f"epoch {record.epoch}/{epochs}  loss {loss}  "
        f"robust {_percent(record.robust_accuracy)}  clean {_percent(record.clean_accuracy)}"
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
            accuracy=f"robust {_percent(record.robust_accuracy)}  "
            f"clean {_percent(record.clean_accuracy)}",
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
    """Several runs in worker processes: what was done in words, and a bar over their epochs."""

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
            completed=now.share,
            description=f"{now.epochs} of {now.of_epochs} epochs",
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
        yield Rows(console, bars, bars.add_task("epochs of all rows", total=1, left=""))


def show_tables(tables: Mapping[str, Sequence[Sequence[str]]], below: str) -> None:
    """Tables by title, beside each other where the terminal is wide enough, and a text below."""
    console = Console(file=sys.stdout)
    console.print(Columns([_rich_table(title, lines) for title, lines in tables.items()]))
    console.print(visible(below), highlight=False, markup=False)


def _rich_table(title: str, lines: Sequence[Sequence[str]]) -> Table:
    header, *rows = lines
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
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
