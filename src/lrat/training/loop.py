"""The only training loop: it knows ``Objective``, never a method."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from lrat.checks import FUNCTION, checked, instance
from lrat.distributed.group import Alone, Crew, first_to_differ
from lrat.distributed.signals import stopping, stopping_after
from lrat.errors import RunFolderError
from lrat.hardware import device_of, move
from lrat.modes import training_modes, usual_autograd
from lrat.objectives.base import Objective
from lrat.training.epochs import Epochs
from lrat.training.metrics import EpochRecord
from lrat.training.optimisation import Optimisation
from lrat.training.state import RunState
from lrat.training.step import Stepper
from lrat.training.storage import FolderKeeper, Keeper, MemoryKeeper, Storage
from lrat.training.watch import MODEL, Trackers, Watch, tell
from lrat.types import BatchSource


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A finished run. The model itself holds the weights of the last epoch.

    ``records``: one per epoch. ``selected_epoch`` (from 1) with its ``selected_value`` (None
    without selection: then it is the last epoch); ``weights``: its state dictionary, on the CPU.
    ``notes``: what was found odd about the model and its images before the first step.
    """

    records: tuple[EpochRecord, ...]
    selected_epoch: int
    selected_value: float | None
    weights: Mapping[str, Any]

    @property
    def notes(self) -> tuple[str, ...]:
        first = self.records[0].notices if self.records else ()
        return tuple(said["text"] for said in first if said["guard"] == MODEL)


@usual_autograd()
@checked(
    source=instance(BatchSource, need="a source of batches", example="Batches(images, ...)"),
    objective=instance(Objective, need="an objective", example="lrat.methods.sat(...)"),
    optimisation=instance(Optimisation, need="an Optimisation", example="Optimisation(epochs=20)"),
    watch=instance(Watch, need="a Watch", example="Watch()"),
    storage=instance(Storage, need="a Storage", example="Storage(folder=..., identity=...)"),
    view=replace(FUNCTION, need="a function from the model to a module", example="accelerate"),
    crew=instance(Crew, need="a Crew", example="Alone()"),
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
    place = torch.device(device or device_of(model) or "cpu")
    move(model, place)
    average = optimisation.average(model)
    optimizer = optimisation.optimizer(model)
    watch = watch or Watch()
    state = RunState(model, optimizer, source, place, average, watch.guards)
    keeper: Keeper = (
        MemoryKeeper() if storage is None else FolderKeeper(storage, writes=crew.rank == 0)
    )
    crew.barrier()  # all see what is saved now
    remark = keeper.resume(state)
    crew.barrier()  # nothing is removed before all have read it
    astray = first_to_differ(crew, state.epoch, state.step, device=place)
    if astray is not None:
        raise RunFolderError(
            f"process {astray + 1} of {crew.size} does not find the checkpoints that the first one "
            "does: choose a folder that all machines share"
        )
    if state.epoch or state.step:
        tell(watch.progress, _where(state, optimisation.epochs), level=logging.INFO)
    if remark is not None:
        tell(watch.progress, remark, level=logging.WARNING)
    for note in watch.notes if crew.rank == 0 else ():
        tell(watch.progress, note, level=logging.WARNING)
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
        epochs = Epochs(
            state=state,
            stepper=stepper,
            optimisation=optimisation,
            watch=watch,
            keeper=keeper,
            stop=stop,
            seen=seen,
            crew=crew,
            trackers=trackers,
        )
        while state.epoch < optimisation.epochs:
            epochs.next()
    crew.barrier()  # the first one has written what the others read now
    return TrainingResult(
        records=tuple(state.records),
        selected_epoch=state.epoch if state.best is None else state.best.epoch,
        selected_value=None if state.best is None else state.best.value,
        weights=keeper.selected(state),
    )


def _where(state: RunState, epochs: int) -> str:
    """From where a run goes on, in words."""
    if state.epoch >= epochs:
        return f"all {epochs} epochs are done already"
    if state.measuring:
        return f"continuing in epoch {state.epoch + 1} after its steps"
    return f"continuing {state.place}"
