"""What is watched while a model trains: accuracies, the best epoch so far, progress."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import nn

from lrat.checks import check_fields
from lrat.distributed.signals import StopRequest
from lrat.errors import NonFiniteError, SettingError, StopNow, UnknownNameError
from lrat.modes import evaluating
from lrat.outputs import forward_logits
from lrat.text import in_one_line
from lrat.training.guards import Guards
from lrat.training.metrics import EpochRecord
from lrat.types import Batch

_logger = logging.getLogger(__name__)
MODEL, VIEW, ATTACK = "model", "view", "attack"
"""Names, in place of a guard's, of notes by the checks before the run, by attacks that left their
view of the model, and by user attacks that changed it."""
Measure: TypeAlias = Callable[[nn.Module], Mapping[str, float]]
"""Accuracies (or other numbers) of a model by name; the model is in eval mode."""


@dataclass(frozen=True, kw_only=True)
class StepProgress:
    """Where the run is. Forecasts rest on the speed of this process so far, evaluations included.

    ``epoch`` counts from 1; ``images`` of this epoch are done, of ``images_per_epoch`` (None for a
    stream). ``seconds_left`` of the whole run, None where the size of an epoch is unknown.
    """

    epoch: int
    epochs: int
    step: int
    images: int
    images_per_epoch: int | None
    images_per_second: float
    seconds_left: float | None


@runtime_checkable
class Progress(Protocol):
    """Called after each step (``on_step``) and each epoch (``on_epoch``); never changes the model.

    See also ``Speaker``.
    """

    def on_step(self, progress: StepProgress) -> None: ...

    def on_epoch(self, record: EpochRecord) -> None: ...


@runtime_checkable
class Speaker(Protocol):
    """A progress that can show a line in words as well: a stop that was heard, a continued run."""

    def say(self, line: str) -> None: ...


@runtime_checkable
class Tracker(Protocol):
    """Receives every epoch, for curves elsewhere; one that raises is left out from then on."""

    def begin(self, records: Sequence[EpochRecord]) -> None:
        """Training starts; ``records`` of the epochs that were done before, of a continued run."""
        ...

    def on_epoch(self, record: EpochRecord) -> None: ...

    def end(self) -> None:
        """Training ended, finished or not."""
        ...


class Trackers:
    """Calls trackers; a context manager around the training. An error of one reaches no other."""

    def __init__(self, trackers: Sequence[Tracker], records: Sequence[EpochRecord]) -> None:
        self._trackers = list(trackers)
        self._records = records

    def __enter__(self) -> "Trackers":
        self._each(lambda tracker: tracker.begin(self._records))
        return self

    def __exit__(self, *error: object) -> None:
        self._each(lambda tracker: tracker.end())

    def on_epoch(self, record: EpochRecord) -> None:
        self._each(lambda tracker: tracker.on_epoch(record))

    def _each(self, call: Callable[[Tracker], object]) -> None:
        for tracker in tuple(self._trackers):
            try:
                call(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                _logger.warning(
                    "tracker %s failed (%s): training goes on without it",
                    type(tracker).__name__,
                    in_one_line(error),
                )


def tell(progress: Progress, line: str, *, level: int) -> None:
    """Have the progress say it, or log it at ``level`` where it cannot speak."""
    if isinstance(progress, Speaker):
        progress.say(line)
    else:
        _logger.log(level, line)


class Silent:
    """Progress that nobody looks at."""

    def on_step(self, progress: StepProgress) -> None:
        return

    def on_epoch(self, record: EpochRecord) -> None:
        return


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What to measure during training. Callables are given from outside, with the data they need.

    ``clean``: batches of training images (a fixed subset) whose clean accuracy is recorded.
    ``validate``: measured on held-out images after each epoch; ``select_by`` names the value that
    picks the epoch (the largest; the earlier one of equals), None picks the last epoch.
    ``monitor``: measured every ``monitor_every`` epochs and after the last, recorded, and never
    used to select. ``probe``: a stronger attack on a few training images, measured after each epoch
    for guards; ``guards``: of one run alone, they remember it. ``trackers``: receive every epoch.
    ``notes``: what the checks before the run report; shown at its start and kept among the first
    epoch's notices. Raises ``SettingError``.
    """

    clean: Sequence[Batch] = ()
    validate: Measure | None = None
    select_by: str | None = None
    monitor: Measure | None = None
    monitor_every: int = 1
    probe: Measure | None = None
    guards: Guards | None = None
    trackers: Sequence[Tracker] = ()
    progress: Progress = field(default_factory=Silent)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if self.select_by is not None and self.validate is None:
            raise SettingError(
                f"Watch(select_by={self.select_by!r}): selecting needs validate, measured on "
                "held-out images; without it leave select_by out and the last epoch is taken"
            )


@dataclass(frozen=True, kw_only=True)
class Best:
    """The epoch (from 1) with the largest value of the selecting measure so far."""

    epoch: int
    value: float


def choose(best: Best | None, record: EpochRecord, key: str) -> Best:
    """The better of the best so far and this epoch; the earlier of equals.

    Where weights are averaged, the averaged ones are reported, and so it goes by their accuracy.
    """
    if key not in record.validation:
        raise UnknownNameError("validation measure to select by", key, record.validation)
    value = record.average.get(f"validation/{key}", record.validation[key])
    if value is None or not math.isfinite(value):
        raise NonFiniteError(
            f"epoch {record.epoch}: validation gave {key}={value}, which no epoch can be "
            "selected by: look at the validation images and the model's logits"
        )
    return (
        best if best is not None and value <= best.value else Best(epoch=record.epoch, value=value)
    )


def measure(model: nn.Module, what: Measure) -> dict[str, float]:
    """Call a measure with the model in eval mode; every module's own mode back afterwards."""
    with evaluating(model):
        return {name: float(value) for name, value in what(model).items()}


def clean_accuracy(model: nn.Module, batches: Sequence[Batch]) -> float | None:
    """Share of the images classified correctly in eval mode; None without images."""
    if not batches:
        return None
    with evaluating(model), torch.no_grad():
        right = [
            (forward_logits(model, batch.images).argmax(1) == batch.labels).sum()
            for batch in batches
        ]
        return float(torch.stack(right).sum()) / sum(len(batch) for batch in batches)


@contextmanager
def noticing(stop: StopRequest, *modules: nn.Module) -> Iterator[None]:
    """Inside, the next forward of one of ``modules`` raises ``StopNow`` once a stop is requested.

    A measurement can take hours, and its forwards are the one thing that is known of it.
    """

    def check(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if stop:
            raise StopNow

    with ExitStack() as hooks:
        for module in dict.fromkeys(modules):
            hooks.enter_context(module.register_forward_pre_hook(check))
        yield
