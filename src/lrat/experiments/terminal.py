"""What people see: bars on a terminal, plain lines elsewhere, and tables."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from lrat.evaluation import Progress as EvaluationProgress
from lrat.experiments.config import RunConfig
from lrat.experiments.demo import RowsProgress
from lrat.experiments.evaluating import ProgressCallback
from lrat.training import EpochRecord, Progress, StepProgress

_FORECAST_AFTER_STEPS = 5


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``2 h 05 min``; at least ``1 s``."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def epoch_line(record: EpochRecord, epochs: int) -> str:
    """One epoch in a line."""
    held_out = "".join(
        f"  held-out {name} {_percent(value)}" for name, value in record.validation.items()
    )
    monitored = "".join(f"  {name} {_percent(value)}" for name, value in record.monitor.items())
    return (
        f"epoch {record.epoch}/{epochs}  loss {record.loss:.4f}  "
        f"robust {_percent(record.robust_accuracy)}  clean {_percent(record.clean_accuracy)}"
        f"{held_out}{monitored}  {record.images_per_second:.0f} images/s"
    )


class _TrainingLines:
    """Plain lines: a forecast before the first epoch ends, then a line per epoch."""

    def __init__(self, console: Console, epochs: int) -> None:
        self._console = console
        self._epochs = epochs
        self._steps = 0

    def on_step(self, progress: StepProgress) -> None:
        self._steps += 1
        if self._steps == _FORECAST_AFTER_STEPS and progress.seconds_left is not None:
            self._say(
                f"epoch {progress.epoch}/{self._epochs}  about {duration(progress.seconds_left)} "
                f"to the end of the run  {progress.images_per_second:.0f} images/s"
            )

    def on_epoch(self, record: EpochRecord) -> None:
        self._say(epoch_line(record, self._epochs))

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False)


class _TrainingBar:
    """A bar over the whole run, with the last epoch's accuracies beside it."""

    def __init__(self, bars: Bars, task: TaskID, epochs: int) -> None:
        self._bars = bars
        self._task = task
        self._epochs = epochs

    def on_step(self, progress: StepProgress) -> None:
        size = progress.images_per_epoch
        done = progress.epoch - 1 + (progress.images / size if size else 0)
        left = "" if progress.seconds_left is None else f"{duration(progress.seconds_left)} left"
        self._bars.update(
            self._task,
            completed=done,
            description=f"epoch {progress.epoch}/{self._epochs}",
            speed=f"{progress.images_per_second:.0f} images/s  {left}",
        )

    def on_epoch(self, record: EpochRecord) -> None:
        self._bars.update(
            self._task,
            completed=record.epoch,
            accuracy=f"robust {_percent(record.robust_accuracy)}  "
            f"clean {_percent(record.clean_accuracy)}",
        )


def _bars(console: Console, *fields: str) -> Bars:
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
    if not console.is_terminal:
        yield _TrainingLines(console, epochs)
        return
    with _bars(console, "speed", "accuracy") as bars:
        task = bars.add_task(config.method.name, total=epochs, speed="", accuracy="")
        yield _TrainingBar(bars, task, epochs)


@contextmanager
def evaluation_progress() -> Iterator[ProgressCallback]:
    """What to hand to ``evaluate_run``: a bar per attack on a terminal, silence elsewhere."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda progress: None
        return
    tasks: dict[str, TaskID] = {}
    with _bars(console, "state") as bars:

        def show(progress: EvaluationProgress) -> None:
            if progress.attack not in tasks:
                tasks[progress.attack] = bars.add_task(progress.attack, total=None, state="")
            state = f"{progress.robust} of {progress.done} images stand"
            bars.update(tasks[progress.attack], state=state)

        yield show


class Rows:
    """Several runs in worker processes: what was done in words, and a bar over their epochs."""

    def __init__(self, console: Console, bars: Bars | None, task: TaskID | None) -> None:
        self._console = console
        self._bars = bars
        self._task = task

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False)

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
    with _bars(console, "left") as bars:
        yield Rows(console, bars, bars.add_task("epochs of all rows", total=1, left=""))


def show_tables(tables: Mapping[str, Sequence[Sequence[str]]], below: str) -> None:
    """Tables by title, beside each other where the terminal is wide enough, and a text below."""
    console = Console(file=sys.stdout)
    console.print(Columns([_rich_table(title, lines) for title, lines in tables.items()]))
    console.print(below, highlight=False)


def _rich_table(title: str, lines: Sequence[Sequence[str]]) -> Table:
    header, *rows = lines
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows:
        # The interval goes below its value, so that a table of six attacks fits 80 columns.
        table.add_row(*(cell.replace(" [", "\n[").replace("[", r"\[") for cell in row))
    return table
