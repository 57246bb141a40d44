"""The only training loop: it knows ``Objective``, never a method.

``train`` begins and ends a run; ``Epochs`` goes from one epoch to the next (steps, checkpoints,
stops in between); ``measured`` makes the record of everything that is measured at an epoch's end.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, NoReturn

import torch
from torch import nn

from lrat.acceleration import Choices, View
from lrat.attacks.protection import Changes, noting_changes
from lrat.checks import FUNCTION, checked, instance
from lrat.distributed.group import ProcessGroup, SingleProcess, first_to_differ
from lrat.distributed.signals import PLANNED, StopRequest, stopping, stopping_after
from lrat.errors import DataError, Interrupted, NonFiniteError, Paused, RunFolderError, StopNow
from lrat.hardware import device_of, move
from lrat.modes import training_modes, usual_autograd, without_traces
from lrat.objectives.base import Objective
from lrat.training.metrics import EpochRecord
from lrat.training.optimisation import Optimisation
from lrat.training.state import RunState
from lrat.training.step import Stepper, step_randomness
from lrat.training.storage import FolderKeeper, Keeper, MemoryKeeper, Storage
from lrat.training.watch import (
    ATTACK,
    MODEL,
    VIEW,
    StepProgress,
    Trackers,
    Watch,
    choose,
    clean_accuracy,
    measure,
    noticing,
    tell,
)
from lrat.types import BatchSource

_AFTER_ALL_STEPS = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A finished run. The model itself holds the weights of the last epoch.

    ``records``: one per epoch. ``selected_epoch`` (from 1) with its ``selected_value`` (None
    without selection: then it is the last epoch); ``weights``: its state dictionary, on the CPU.
    ``notes``: what is unusual about the model and its images, by the checks before the first step
    and by the attacks during training.
    """

    records: tuple[EpochRecord, ...]
    selected_epoch: int
    selected_value: float | None
    weights: Mapping[str, Any]

    @property
    def notes(self) -> tuple[str, ...]:
        said = [each for record in self.records for each in record.notices]
        about = (MODEL, VIEW, ATTACK)
        return tuple(dict.fromkeys(each["text"] for each in said if each["guard"] in about))


@usual_autograd()
@checked(
    source=instance(BatchSource, need="a source of batches", example="Batches(images, ...)"),
    objective=instance(Objective, need="an objective", example="lrat.methods.sat(...)"),
    optimisation=instance(Optimisation, need="an Optimisation", example="Optimisation(epochs=20)"),
    watch=instance(Watch, need="a Watch", example="Watch()"),
    storage=instance(Storage, need="a Storage", example="Storage(folder=..., identity=...)"),
    view=replace(FUNCTION, need="a function from the model to a module", example="accelerate"),
    group=instance(ProcessGroup, need="a process group", example="SingleProcess()"),
)
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
    group: ProcessGroup | None = None,
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

    ``group``: the processes that train together, each of which calls this with the whole model,
    source and watch. They take their shares of every batch and come to the same weights and
    records; the first one writes, and a request to stop one stops all after the same step.

    Raises ``Interrupted`` after SIGINT or SIGTERM, when the step under way is done and saved (a
    measurement under way is left at its next forward and repeated by the continued run; several
    processes finish theirs), and its kind ``Paused`` after ``max_minutes``; ``NonFiniteError`` with
    epoch, step and term; ``CheckpointError`` and ``RunFolderError`` for the folder; ``ModelError``
    without trainable parameters; ``DataError`` for an empty epoch; ``SettingError`` for a time
    that is none.
    """
    group = SingleProcess() if group is None else group
    device = torch.device(device or device_of(model) or "cpu")
    move(model, device)
    average = optimisation.average(model)
    optimizer = optimisation.optimizer(model)
    watch = watch or Watch()
    state = RunState(model, optimizer, source, device, average, watch.guards)
    keeper: Keeper = (
        MemoryKeeper() if storage is None else FolderKeeper(storage, writes=group.rank == 0)
    )
    group.barrier()  # all see what is saved now
    remark = keeper.resume(state)
    group.barrier()  # nothing is removed before all have read it
    differs = first_to_differ(group, state.epoch, state.step, device=device)
    if differs is not None:
        raise RunFolderError(
            f"process {differs + 1} of {group.size} does not find the checkpoints that the first "
            "one does: choose a folder that all machines share"
        )
    if state.epoch or state.step:
        tell(watch.progress, _where(state, optimisation.epochs), level=logging.INFO)
    if remark is not None:
        tell(watch.progress, remark, level=logging.WARNING)
    for note in watch.notes if group.rank == 0 else ():
        tell(watch.progress, note, level=logging.WARNING)
    seen = model if view is None else view(model)
    if isinstance(seen, View) and state.view is not None:
        seen.use(Choices.parse(state.view))
    stepper = Stepper(model, seen, objective, state.optimizer, optimisation, state.memory, group)

    def announce(reason: str) -> None:
        what = f"{reason}: stopping after the step under way; a second signal stops at once"
        tell(watch.progress, what, level=logging.WARNING)

    with (
        training_modes(model),
        stopping(announce) as stop,
        stopping_after(max_minutes, stop),
        Trackers(watch.trackers, state.records) as trackers,
        noting_changes() as changes,
        stepper,
    ):
        epochs = Epochs(
            state=state,
            stepper=stepper,
            optimisation=optimisation,
            watch=watch,
            keeper=keeper,
            stop=stop,
            seen=seen,
            group=group,
            trackers=trackers,
            changes=changes,
        )
        while state.epoch < optimisation.epochs:
            epochs.next()
    group.barrier()  # the first one has written what the others read now
    return TrainingResult(
        records=tuple(state.records),
        selected_epoch=state.epoch if state.best is None else state.best.epoch,
        selected_value=None if state.best is None else state.best.value,
        weights=keeper.selected(state),
    )


def _where(state: RunState, epochs: int) -> str:
    """The position from which a run is continued, in words."""
    if state.epoch >= epochs:
        return f"all {epochs} epochs are done already"
    if state.measuring:
        return f"continuing in epoch {state.epoch + 1} after its steps"
    return f"continuing {state.position}"


@dataclass(kw_only=True)
class Epochs:
    """Takes a run from epoch to epoch.

    ``seen``: the module that attacks see, measurements too. ``changes``: what user attacks changed.
    """

    state: RunState
    stepper: Stepper
    optimisation: Optimisation
    watch: Watch
    keeper: Keeper
    stop: StopRequest
    seen: nn.Module
    group: ProcessGroup
    trackers: Trackers
    changes: Changes
    _started: float = field(default_factory=time.perf_counter, init=False)
    _images_here: int = field(default=0, init=False)

    def next(self) -> None:
        """What is left of the epoch under way, its measurements, its checkpoint."""
        state = self.state
        if not state.measuring:
            self._steps()
            self._check_steps()
            if isinstance(self.seen, View):
                self.seen.check()
            state.note(self.seen, self.changes)
            state.measuring = True
            self.keeper.steps_ended(state)
        try:
            with self._noticing():
                record = measured(state, self.watch, self.optimisation)
        except StopNow:
            self._save_and_stop(self.stop.urgency)
        state.note(self.seen, self.changes)
        state.share_remarks(self.group)
        record = self._guarded(record)
        key = self.watch.select_by
        state.end_epoch(record, None if key is None else choose(state.best, record, key))
        self.keeper.epoch_ended(state)
        self.watch.progress.on_epoch(record)
        self.trackers.on_epoch(record)
        urgency = self._urgency()
        if urgency > (PLANNED if state.epoch == self.optimisation.epochs else 0):
            if state.epoch < self.optimisation.epochs:
                self.keeper.save(state)
            raise self._stopped(urgency)

    def _check_steps(self) -> None:
        """Raise where the epoch had no batch or mostly skipped steps."""
        sums, epoch = self.state.sums, self.state.epoch + 1
        if sums.steps == 0:
            raise DataError(f"epoch {epoch}: the source gave no batch; give it at least one image")
        if 2 * sums.skipped > sums.steps:
            raise NonFiniteError(
                f"epoch {epoch}: {sums.skipped} of {sums.steps} steps were skipped, as their loss "
                "or gradient was NaN or infinite, so the run stops here: lower the learning rate, "
                "clip gradients, or look at the images and the loss"
            )

    def _guarded(self, record: EpochRecord) -> EpochRecord:
        """The record with what the guards say about it, which is also shown at once."""
        guards = self.watch.guards
        notices = () if guards is None else guards.after_epoch(record)
        for notice in notices:
            tell(self.watch.progress, f"epoch {notice.epoch}: {notice.text}", level=logging.WARNING)
        said = [{"guard": notice.guard, "text": notice.text} for notice in notices]
        if record.epoch == 1:  # the notes were shown before the first step
            said = [{"guard": MODEL, "text": note} for note in self.watch.notes] + said
        return replace(record, notices=(*record.notices, *said, *self.state.remarks))

    def _steps(self) -> None:
        state = self.state
        source = iter(state.source)
        last = time.perf_counter()
        while batches := list(islice(source, self.optimisation.accumulate)):
            moved = [batch.to(state.device) for batch in batches]
            self._set_rate()
            guards = self.watch.guards if state.step == 0 else None
            outcome = self.stepper(
                moved,
                epoch=state.epoch,
                step=state.step,
                urgency=self.stop.urgency,
                examine=None if guards is None else partial(guards.examination, group=self.group),
            )
            if state.average is not None and not outcome.skipped:
                state.average.update(state.model)
            state.step += 1
            state.note(self.seen, self.changes)
            # Fewer batches: the source has come to its end and is at the start of the next epoch.
            state.measuring = len(batches) < self.optimisation.accumulate
            state.sums.add(outcome)
            self._images_here += outcome.images
            now = time.perf_counter()
            state.sums.seconds += now - last
            last = now
            self.keeper.step_ended(state, outcome)
            self.watch.progress.on_step(self._progress(now))
            urgency = self.stop.urgency if self.group.size == 1 else outcome.urgency
            if urgency:
                self._save_and_stop(urgency)
            if state.measuring:
                return

    def _save_and_stop(self, urgency: int) -> NoReturn:
        """Save within the epoch and raise ``Interrupted``."""
        state = self.state
        state.note(self.seen, self.changes)
        state.share_remarks(self.group)
        self.keeper.save(state)
        raise self._stopped(urgency) from None

    def _stopped(self, urgency: int) -> Interrupted:
        reason = self.stop.reason or "a request to another process"
        kind = Paused if urgency == PLANNED else Interrupted
        return kind(f"stopped by {reason} {self.state.position}; {self.keeper.where}")

    def _urgency(self) -> int:
        """The urgency of the most urgent request to stop in any process: the same in all."""
        if self.group.size == 1:
            return self.stop.urgency
        urgency = torch.tensor([float(self.stop.urgency)], device=self.state.device)
        return int(self.group.gather(urgency).max())

    def _noticing(self) -> AbstractContextManager[None]:
        """Several processes measure together, so that one cannot leave by itself."""
        if self.group.size > 1:
            return nullcontext()
        return noticing(self.stop, self.state.model, self.seen)

    def _set_rate(self) -> None:
        """The learning rate of the next step, by how far the epoch is."""
        state, size = self.state, self.state.source.size
        done = 0.0 if not size else state.sums.images / size
        position = min(state.epoch + done, math.nextafter(state.epoch + 1, 0))
        state.rate = self.optimisation.learning_rate(position)
        for group in state.optimizer.param_groups:
            group["lr"] = state.rate

    def _progress(self, now: float) -> StepProgress:
        state, epochs = self.state, self.optimisation.epochs
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


def measured(state: RunState, watch: Watch, optimisation: Optimisation) -> EpochRecord:
    """The record of the epoch whose steps are done; the model is as it was before."""
    epoch = state.epoch
    started = time.perf_counter()
    is_last = epoch + 1 == optimisation.epochs
    due = is_last or (epoch + 1) % watch.monitor_every == 0
    randomness = step_randomness(optimisation.seed, epoch, _AFTER_ALL_STEPS)
    with randomness, without_traces(state.model):
        numbers = _numbers(state, watch, monitors=due)
        probe = {} if watch.probe is None else measure(state.model, watch.probe)
        average: Mapping[str, float | None] = {}
        if state.average is not None:
            with state.average.applied(state.model):
                average = _numbers(state, watch, monitors=due).flat()
    return state.sums.record(
        epoch=epoch,
        lr=state.rate,
        clean_accuracy=numbers.clean_accuracy,
        validation=numbers.validation,
        monitor=numbers.monitor,
        probe=probe,
        average=average,
        evaluation_seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    """What is measured of one set of weights."""

    clean_accuracy: float | None
    validation: Mapping[str, float]
    monitor: Mapping[str, float]

    def flat(self) -> dict[str, float | None]:
        values: dict[str, float | None] = {"clean_accuracy": self.clean_accuracy}
        for kind, numbers in (("validation", self.validation), ("monitor", self.monitor)):
            values |= {f"{kind}/{name}": value for name, value in numbers.items()}
        return values


def _numbers(state: RunState, watch: Watch, *, monitors: bool) -> _Numbers:
    """Of the model as it is now."""
    model, device = state.model, state.device
    return _Numbers(
        clean_accuracy=clean_accuracy(model, [batch.to(device) for batch in watch.clean]),
        validation={} if watch.validate is None else measure(model, watch.validate),
        monitor={} if watch.monitor is None or not monitors else measure(model, watch.monitor),
    )
