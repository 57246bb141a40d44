"""From one epoch to the next: steps, measurements, checkpoints, and stops in between."""

import logging
import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import NoReturn

import torch
from torch import nn

from lrat.acceleration import View
from lrat.distributed.group import Crew
from lrat.distributed.signals import PLANNED, StopRequest
from lrat.errors import DataError, Interrupted, NonFiniteError, Paused, StopNow
from lrat.training.measuring import measured
from lrat.training.metrics import EpochRecord
from lrat.training.optimisation import Optimisation
from lrat.training.state import RunState
from lrat.training.step import Stepper
from lrat.training.storage import Keeper
from lrat.training.watch import MODEL, VIEW, StepProgress, Trackers, Watch, choose, noticing, tell


@dataclass(kw_only=True)
class Epochs:
    """Takes a run from epoch to epoch.

    ``seen``: what attacks see, also while measuring.
    """

    state: RunState
    stepper: Stepper
    optimisation: Optimisation
    watch: Watch
    keeper: Keeper
    stop: StopRequest
    seen: nn.Module
    crew: Crew
    trackers: Trackers
    _started: float = field(default_factory=time.perf_counter, init=False)
    _view_notes: tuple[str, ...] = field(default=(), init=False)
    _images_here: int = field(default=0, init=False)

    def next(self) -> None:
        """What is left of the epoch under way, its measurements, its checkpoint."""
        state = self.state
        if not state.measuring:
            self._steps()
            self._check_steps()
            self._check_view()
            state.measuring = True
            self.keeper.steps_ended(state)
        try:
            with self._noticing():
                record = measured(state, self.watch, self.optimisation)
        except StopNow:
            self._save_and_stop(self.stop.urgency)
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

    def _check_view(self) -> None:
        """Compare what attacks see with the model; what was noted goes into the epoch's record."""
        if isinstance(self.seen, View):
            self._view_notes = self.seen.check()

    def _check_steps(self) -> None:
        """Raise where the epoch was none."""
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
        """The record with what the guards say about it, which is told as well."""
        guards = self.watch.guards
        notices = () if guards is None else guards.after_epoch(record)
        for notice in notices:
            tell(self.watch.progress, f"epoch {notice.epoch}: {notice.text}", level=logging.WARNING)
        said = [{"guard": notice.guard, "text": notice.text} for notice in notices]
        if record.epoch == 1:  # these were told before the first step
            said = [{"guard": MODEL, "text": note} for note in self.watch.notes] + said
        said += [{"guard": VIEW, "text": note} for note in self._view_notes]
        self._view_notes = ()
        return replace(record, notices=(*record.notices, *said))

    def _steps(self) -> None:
        state = self.state
        batches = iter(state.source)
        last = time.perf_counter()
        while group := list(islice(batches, self.optimisation.accumulate)):
            moved = [batch.to(state.device) for batch in group]
            self._set_rate()
            guards = self.watch.guards if state.step == 0 else None
            outcome = self.stepper(
                moved,
                epoch=state.epoch,
                step=state.step,
                asked=self.stop.urgency,
                examine=None if guards is None else partial(guards.after_attack, crew=self.crew),
            )
            if state.average is not None and not outcome.skipped:
                state.average.update(state.model)
            state.step += 1
            # A short group says that the source has come to its end, and stands at the next epoch.
            state.measuring = len(group) < self.optimisation.accumulate
            state.sums.add(outcome)
            self._images_here += outcome.images
            now = time.perf_counter()
            state.sums.seconds += now - last
            last = now
            self.keeper.step_ended(state, outcome)
            self.watch.progress.on_step(self._progress(now))
            urgency = self.stop.urgency if self.crew.size == 1 else outcome.asked
            if urgency:
                self._save_and_stop(urgency)
            if state.measuring:
                return

    def _save_and_stop(self, urgency: int) -> NoReturn:
        """Save within the epoch and raise ``Interrupted``."""
        state = self.state
        self.keeper.save(state)
        raise self._stopped(urgency) from None

    def _stopped(self, urgency: int) -> Interrupted:
        reason = self.stop.reason or "a request to another process"
        kind = Paused if urgency == PLANNED else Interrupted
        return kind(f"stopped by {reason} {self.state.place}; {self.keeper.where}")

    def _urgency(self) -> int:
        """How urgently one of the processes was asked to stop: the same answer in all."""
        if self.crew.size == 1:
            return self.stop.urgency
        own = torch.tensor([float(self.stop.urgency)], device=self.state.device)
        return int(self.crew.gather(own).max())

    def _noticing(self) -> AbstractContextManager[None]:
        """Several processes measure together, so that one cannot leave by itself."""
        if self.crew.size > 1:
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
