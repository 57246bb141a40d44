"""Progress for people: bars on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from lrat.evaluation import Progress as EvaluationProgress
from lrat.experiments.config import RunConfig
from lrat.experiments.evaluating import ProgressCallback
from lrat.training import EpochRecord, Progress, StepProgress

_FORECAST_AFTER_STEPS = 5


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
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
                f"about {duration(progress.seconds_left)} for {self._epochs} epochs at "
                f"{progress.images_per_second:.0f} images/s"
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


@contextmanager
def rows_progress(total: int) -> Iterator["RowsBar"]:
    """A bar over the epochs of several runs in worker processes; silent off a terminal."""
    console = Console(file=sys.stderr)
    with _bars(console) as bars:
        visible = console.is_terminal
        task = bars.add_task("training", total=total, visible=visible)
        yield RowsBar(bars, task)


class RowsBar:
    """Told how many epochs all rows have done together."""

    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def __call__(self, done: int) -> None:
        self._bars.update(self._task, completed=done)
