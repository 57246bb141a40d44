"""The only training loop: it knows ``Objective``, never a method."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import NoReturn

import torch
from torch import Tensor, nn

from lrat.errors import DataError, Interrupted, Paused
from lrat.objectives.base import Objective
from lrat.training.crew import Alone, Crew
from lrat.training.interrupt import (
    PLANNED,
    StopNow,
    StopRequest,
    noticing,
    stopping,
    stopping_after,
)
from lrat.training.metrics import EpochRecord
from lrat.training.settings import Optimisation
from lrat.training.state import RunState, training_modes
from lrat.training.step import Stepper, own_randomness
from lrat.training.storage import FolderKeeper, Keeper, MemoryKeeper, Storage
from lrat.training.watch import (
    StepProgress,
    Trackers,
    Watch,
    choose,
    clean_accuracy,
    measure,
    tell,
)
from lrat.types import BatchSource

_AFTER_ALL_STEPS = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A finished run. The model itself holds the weights of the last epoch.

    ``records``: one per epoch. ``selected_epoch`` (from 1) with its ``selected_value`` (None
    without selection: then it is the last epoch); ``weights``: its state dictionary, on the CPU.
    """

    records: tuple[EpochRecord, ...]
    selected_epoch: int
    selected_value: float | None
    weights: Mapping[str, Tensor]


def train(
    model: nn.Module,
    source: BatchSource,
    objective: Objective,
    optimisation: Optimisation,
    *,
    watch: Watch | None = None,
    storage: Storage | None = None,
    view: Callable[[nn.Module], nn.Module] | None = None,
    device: torch.device | str | None = None,
    max_minutes: float | None = None,
    crew: Crew | None = None,
) -> TrainingResult:
    """Train ``model`` in place on the batches of ``source`` by ``objective``.

    The noise of an image in an epoch follows from (seed, image index, epoch) alone, and torch's
    global random state is set per step and put back: on the CPU the same call gives the same
    weights and metrics bit for bit (``metrics.TIMES`` apart), however often it was interrupted.
    With ``storage`` a run that an earlier process left unfinished there is continued, a finished
    one is returned as it is.

    ``view`` makes the module that attacks see (default: the model itself); its ``refresh()``, if
    it has one, is called before each step. ``device`` defaults to where the model is. Modes: see
    ``training_modes``.

    ``crew``: the processes that train together, each of which calls this with the whole model,
    source and watch. They take their shares of every batch and come to the same weights and
    records; the first one writes, and when one is asked to stop all do after the same step.

    Raises ``Interrupted`` after SIGINT or SIGTERM, when the step under way is done and saved (a
    measurement under way is left at its next forward and made again by the continued run; several
    processes finish theirs), and its kind ``Paused`` after ``max_minutes``; ``NonFiniteError`` with
    epoch, step and term; ``CheckpointError`` and ``RunFolderError`` for the folder; ``ModelError``
    without trainable parameters; ``DataError`` for an empty epoch; ``SettingError`` for a time
    that is none.
    """
    crew = Alone() if crew is None else crew
    place = torch.device(device) if device is not None else _device_of(model)
    model.to(place)
    average = optimisation.average(model)
    state = RunState(model, optimisation.optimizer(model), source, place, average)
    keeper: Keeper = (
        MemoryKeeper() if storage is None else FolderKeeper(storage, writes=crew.rank == 0)
    )
    remark = keeper.resume(state)
    crew.barrier()  # nothing is removed before all have read it
    watch = watch or Watch()
    if state.epoch or state.step:
        tell(watch.progress, _where(state, optimisation.epochs), level=logging.INFO)
    if remark is not None:
        tell(watch.progress, remark, level=logging.WARNING)
    seen = model if view is None else view(model)
    stepper = Stepper(model, seen, objective, state.optimizer, optimisation, state.memory, crew)

    def announce(reason: str) -> None:
        what = f"{reason}: stopping after the step under way; a second signal stops at once"
        tell(watch.progress, what, level=logging.WARNING)

    with (
        training_modes(model),
        stopping(announce) as stop,
        stopping_after(max_minutes, stop),
        Trackers(watch.trackers, state.records) as trackers,
        stepper,
    ):
        run = _Run(state, stepper, optimisation, watch, keeper, stop, seen, crew, trackers)
        while state.epoch < optimisation.epochs:
            run.epoch()
    crew.barrier()  # the first one has written what the others read now
    return TrainingResult(
        records=tuple(state.records),
        selected_epoch=state.epoch if state.best is None else state.best.epoch,
        selected_value=None if state.best is None else state.best.value,
        weights=keeper.selected(state),
    )


class _Run:
    """The epochs of one call of ``train``."""

    def __init__(
        self,
        state: RunState,
        stepper: Stepper,
        optimisation: Optimisation,
        watch: Watch,
        keeper: Keeper,
        stop: StopRequest,
        seen: nn.Module,
        crew: Crew,
        trackers: Trackers,
    ) -> None:
        self._state = state
        self._stepper = stepper
        self._optimisation = optimisation
        self._watch = watch
        self._keeper = keeper
        self._stop = stop
        self._seen = seen
        self._crew = crew
        self._trackers = trackers
        self._started = time.perf_counter()
        self._images_here = 0

    def epoch(self) -> None:
        """What is left of the epoch under way, its measurements, its checkpoint."""
        state = self._state
        if not state.measuring:
            self._steps()
        if state.sums.steps == 0:
            raise DataError(
                f"epoch {state.epoch + 1}: the source gave no batch; give it at least one image"
            )
        state.measuring = True
        try:
            with self._noticing():
                record = self._measure()
        except StopNow:
            self._save_and_stop(self._stop.urgency)
        key = self._watch.select_by
        state.end_epoch(record, None if key is None else choose(state.best, record, key))
        self._keeper.epoch_ended(state)
        self._watch.progress.on_epoch(record)
        self._trackers.on_epoch(record)
        urgency = self._urgency()
        if urgency > (PLANNED if state.epoch == self._optimisation.epochs else 0):
            self._keeper.save(state)
            raise self._stopped(urgency, f"after epoch {state.epoch}")

    def _steps(self) -> None:
        state = self._state
        batches = iter(state.source)
        last = time.perf_counter()
        while group := list(islice(batches, self._optimisation.accumulate)):
            moved = [batch.to(state.device) for batch in group]
            self._set_rate()
            outcome = self._stepper(
                moved, epoch=state.epoch, step=state.step, asked=self._stop.urgency
            )
            if state.average is not None and not outcome.skipped:
                state.average.update(state.model)
            state.step += 1
            state.sums.add(outcome)
            self._images_here += outcome.images
            now = time.perf_counter()
            state.sums.seconds += now - last
            last = now
            self._keeper.step_ended(state, outcome)
            self._watch.progress.on_step(self._progress(now))
            urgency = self._stop.urgency if self._crew.size == 1 else outcome.asked
            if urgency:
                self._save_and_stop(urgency)

    def _save_and_stop(self, urgency: int) -> NoReturn:
        """Save within the epoch and raise ``Interrupted``."""
        state = self._state
        self._keeper.save(state)
        where = f"in epoch {state.epoch + 1} after step {state.step}"
        raise self._stopped(urgency, where) from None

    def _stopped(self, urgency: int, where: str) -> Interrupted:
        reason = self._stop.reason or "a request to another process"
        kind = Paused if urgency == PLANNED else Interrupted
        return kind(f"stopped by {reason} {where}; {self._keeper.where}")

    def _urgency(self) -> int:
        """How urgently one of the processes was asked to stop: the same answer in all."""
        if self._crew.size == 1:
            return self._stop.urgency
        own = torch.tensor([float(self._stop.urgency)], device=self._state.device)
        return int(self._crew.gather(own).max())

    def _noticing(self) -> AbstractContextManager[None]:
        """Several processes measure together, so that one cannot leave by itself."""
        if self._crew.size > 1:
            return nullcontext()
        return noticing(self._stop, self._state.model, self._seen)

    def _set_rate(self) -> None:
        """The learning rate of the next step, by how far the epoch is."""
        state, size = self._state, self._state.source.size
        done = 0.0 if not size else state.sums.images / size
        position = min(state.epoch + done, math.nextafter(state.epoch + 1, 0))
        rate = self._optimisation.learning_rate(position)
        for group in state.optimizer.param_groups:
            group["lr"] = rate

    def _progress(self, now: float) -> StepProgress:
        state, epochs = self._state, self._optimisation.epochs
        speed = self._images_here / max(now - self._started, 1e-9)
        size = state.source.size
        left = None if size is None else (epochs - state.epoch) * size - state.sums.images
        return StepProgress(
            epoch=state.epoch + 1,
            epochs=epochs,
            step=state.step,
            images=state.sums.images,
            images_per_epoch=size,
            images_per_second=speed,
            seconds_left=None if left is None else left / speed,
        )

    def _measure(self) -> EpochRecord:
        """The record of the epoch, with everything that is measured at its end."""
        state, watch = self._state, self._watch
        epoch = state.epoch
        started = time.perf_counter()
        is_last = epoch + 1 == self._optimisation.epochs
        due = is_last or (epoch + 1) % watch.monitor_every == 0
        with own_randomness(self._optimisation.seed, epoch, _AFTER_ALL_STEPS, state.device):
            found = self._numbers(due)
            probe = {} if watch.probe is None else measure(state.model, watch.probe)
            average: Mapping[str, float | None] = {}
            if state.average is not None:
                with state.average.applied(state.model):
                    average = self._numbers(due).flat()
        return state.sums.record(
            epoch=epoch,
            lr=state.optimizer.param_groups[0]["lr"],
            clean_accuracy=found.clean_accuracy,
            validation=found.validation,
            monitor=found.monitor,
            probe=probe,
            average=average,
            evaluation_seconds=time.perf_counter() - started,
        )

    def _numbers(self, monitors: bool) -> "_Numbers":
        """Of the model as it is now."""
        watch, model, place = self._watch, self._state.model, self._state.device
        return _Numbers(
            clean_accuracy=clean_accuracy(model, [batch.to(place) for batch in watch.clean]),
            validation={} if watch.validate is None else measure(model, watch.validate),
            monitor={} if watch.monitor is None or not monitors else measure(model, watch.monitor),
        )


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    """What is measured of one set of weights at the end of an epoch."""

    clean_accuracy: float | None
    validation: Mapping[str, float]
    monitor: Mapping[str, float]

    def flat(self) -> dict[str, float | None]:
        found: dict[str, float | None] = {"clean_accuracy": self.clean_accuracy}
        for kind, numbers in (("validation", self.validation), ("monitor", self.monitor)):
            found |= {f"{kind}/{name}": value for name, value in numbers.items()}
        return found


def _where(state: RunState, epochs: int) -> str:
    """From where a run goes on, in words."""
    if state.epoch >= epochs:
        return f"all {epochs} epochs are done already"
    if not state.step:
        return f"continuing after epoch {state.epoch}"
    if state.measuring:
        return f"continuing in epoch {state.epoch + 1} after its steps"
    return f"continuing in epoch {state.epoch + 1} after step {state.step}"


def _device_of(model: nn.Module) -> torch.device:
    return next((value.device for value in model.parameters()), torch.device("cpu"))
