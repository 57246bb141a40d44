"""Where a run keeps itself: in its folder, or in memory for as long as it lasts.

A saved state is taken over whole, or refused in one line.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from lrat.checks import FLAG, check_fields
from lrat.errors import CheckpointError, NonFiniteError, UnknownNameError
from lrat.files.names import CHECKPOINTS, METRICS, RECORDED
from lrat.files.read import NOT_AS_WRITTEN
from lrat.files.write import remove_leftovers
from lrat.training.checkpoint import Checkpoints, check_plain
from lrat.training.metrics import EpochRecord, MetricsFile, WeightRecorder
from lrat.training.outcome import StepOutcome
from lrat.training.state import RunState, reported
from lrat.training.watch import Best, choose

_SECONDS_WORTH_SAVING = 60.0
"""Of training: so much is not left unsaved while an epoch is measured."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """A run folder: ``metrics.jsonl``, ``checkpoints/`` and ``weights/`` in ``folder``.

    ``identity``: a digest of the configuration; a folder of another one is refused. Epochs count
    from 1: ``keep_epochs`` keep their checkpoints beside the last ``keep_last`` and the selected
    one, ``record_epochs`` write their per-image weights. A checkpoint is written after each epoch
    and when the run stops, within an epoch after each ``every_steps`` of its steps and
    ``every_minutes`` after the last one (None: never).

    ``portable``: a run that stops leaves a checkpoint to carry away, of float16 weights without
    momentum (see ``slices``). Continued from there it comes to another result than without the
    stop; the record of the epoch says so. Raises ``SettingError``.
    """

    folder: Path
    identity: str
    keep_last: int = 2
    keep_epochs: Collection[int] = ()
    record_epochs: Collection[int] = ()
    every_steps: int | None = None
    every_minutes: float | None = None
    portable: bool = False

    def __post_init__(self) -> None:
        check_fields(self, portable=FLAG)

    def checkpoints(self) -> Checkpoints:
        """The checkpoints in this folder, for reading."""
        return Checkpoints(
            self.folder / CHECKPOINTS,
            identity=self.identity,
            keep_last=self.keep_last,
            keep_epochs=self.keep_epochs,
        )


@runtime_checkable
class Keeper(Protocol):
    """What the loop hands its results to."""

    @property
    def where(self) -> str:
        """Where the run is saved and what to do to go on, in words."""
        ...

    def resume(self, state: RunState) -> str | None:
        """Bring ``state`` to where an earlier process left the run, if there was one.

        Returns what is not as if it had never stopped, in words; None if it is the same bit for
        bit.
        """
        ...

    def step_ended(self, state: RunState, outcome: StepOutcome) -> None:
        """A step was taken; ``state`` is the one after it."""
        ...

    def steps_ended(self, state: RunState) -> None:
        """All steps of an epoch were taken; what may take long now is to measure them."""
        ...

    def epoch_ended(self, state: RunState) -> None:
        """An epoch is complete: ``state`` is at the start of the next."""
        ...

    def save(self, state: RunState) -> None:
        """The run stops here: save what is not saved yet."""
        ...

    def selected(self, state: RunState) -> dict[str, Any]:
        """The weights of the selected epoch, the last one without selection; on the CPU."""
        ...


class FolderKeeper:
    """Keeps a run in its folder; one of several processes ``writes``, the others only read.

    Every method raises ``RunFolderError`` where the folder cannot be written; the last checkpoint
    is then as good as before.
    """

    def __init__(self, storage: Storage, *, writes: bool = True) -> None:
        self.where = f"saved in {storage.folder}: the same command continues it"
        self._writes = writes
        self._storage = storage
        self._checkpoints = storage.checkpoints()
        self._metrics = MetricsFile(storage.folder / METRICS)
        self._recorder = WeightRecorder(storage.folder / RECORDED, epochs=storage.record_epochs)
        self._saved: tuple[int, int, bool] | None = None
        self._carried: tuple[int, int, bool] | None = None
        self._saved_at = time.monotonic()

    def resume(self, state: RunState) -> str | None:
        check_plain(state.state_dict(), "state")  # what cannot be saved is not trained
        saved = self._checkpoints.latest()
        remark = None if saved is None else self._take_over(state, saved)
        if self._writes:
            folder = self._storage.folder
            remove_leftovers(folder, folder / CHECKPOINTS, folder / RECORDED)
            self._metrics.rewrite(record.to_json() for record in state.records)
        return remark

    def _take_over(self, state: RunState, saved: dict[str, Any]) -> str | None:
        light = saved.pop("portable", None)
        take_over(state, self._recorder, self._metrics, saved, self._checkpoints.folder)
        self._note_saved(state)
        notes = {"selection": self._select_anew(state), "records": _lost_records(state)}
        if light is not None:
            self._carried = _position(state)
            notes["portable"] = _afresh(state, light)
        new = {about: text for about, text in notes.items() if text is not None}
        for about, text in new.items():
            state.remark(about, text)
        return "; ".join(new.values()) or None

    def _select_anew(self, state: RunState) -> str | None:
        """Where the selected weights are lost, the best of those that are not are selected."""
        lost = state.best
        if lost is None or self._checkpoints.holds(lost.epoch):
            return None
        state.best = best_of(state.records, self._checkpoints.epochs(), lost)
        instead = "the best of the epochs to come"
        if state.best is not None:
            instead = f"epoch {state.best.epoch}, the best of those kept"
        return (
            f"the checkpoint of epoch {lost.epoch}, the best so far, is damaged or gone: "
            f"{instead}, is selected instead"
        )

    def step_ended(self, state: RunState, outcome: StepOutcome) -> None:
        if not self._writes:
            return
        if not outcome.skipped:
            self._recorder.add(outcome, epoch=state.epoch + 1)
        if self._is_due(state):
            self._save(state)

    def steps_ended(self, state: RunState) -> None:
        # A measurement of several processes is not left halfway, and a scheduler may not wait.
        if self._writes and time.monotonic() - self._saved_at >= _SECONDS_WORTH_SAVING:
            self._save(state)

    def epoch_ended(self, state: RunState) -> None:
        if not self._writes:
            return
        # The checkpoint comes last: what a kill leaves in the other files is then written again.
        self._metrics.append(state.records[-1].to_json())
        self._recorder.write(epoch=state.epoch)
        self._save(state)

    def save(self, state: RunState) -> None:
        if not self._writes:
            return
        if self._storage.portable:
            self._save_portable(state)
        else:
            self._save(state)

    def selected(self, state: RunState) -> dict[str, Any]:
        name = "last" if state.best is None else f"epoch-{state.best.epoch}"
        return reported(self._checkpoints.load(name))

    def _is_due(self, state: RunState) -> bool:
        steps, minutes = self._storage.every_steps, self._storage.every_minutes
        if steps is not None and state.step % steps == 0:
            return True
        return minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes

    def _save(self, state: RunState) -> None:
        if self._saved == _position(state):
            return
        self._checkpoints.save(self._state_dict(state), **_description(state))
        self._note_saved(state)

    def _save_portable(self, state: RunState) -> None:
        # What was carried here is not written over: a kill in between would leave nothing.
        if self._carried != _position(state):
            named = state.model.named_parameters(remove_duplicate=False)
            self._checkpoints.save_portable(
                self._state_dict(state), [name for name, _ in named], **_description(state)
            )
            self._carried, self._saved = _position(state), None  # not as it is
        size = self._checkpoints.size() / 1e6
        self.where = (
            f"saved in {self._storage.folder} to carry away, {size:.1f} MB of checkpoints: the "
            "same command continues it, there or here, with fresh momentum"
        )

    def _state_dict(self, state: RunState) -> dict[str, Any]:
        return {
            **state.state_dict(),
            "records": self._metrics.state_dict(),
            "recorder": self._recorder.state_dict(),
        }

    def _note_saved(self, state: RunState) -> None:
        self._saved = _position(state)
        self._saved_at = time.monotonic()


def _position(state: RunState) -> tuple[int, int, bool]:
    return state.epoch, state.step, state.measuring


def _lost_records(state: RunState) -> str | None:
    known = {record.epoch for record in state.records}
    lost = [epoch for epoch in range(1, state.epoch + 1) if epoch not in known]
    if not lost:
        return None
    return f"the records of {len(lost)} of {state.epoch} epochs are lost"


def _afresh(state: RunState, light: Mapping[str, str]) -> str:
    return f"momentum starts afresh {state.position}, from weights in {light['weights']}"


def _description(state: RunState) -> dict[str, Any]:
    """What a checkpoint of this state is called by."""
    return {
        "epoch": state.epoch,
        "step": state.step,
        "measuring": state.measuring,
        "selected": None if state.best is None else state.best.epoch,
    }


class MemoryKeeper:
    """Keeps the selected weights alone, for runs without a folder."""

    where = "nothing is saved, as the run was given no storage"

    def __init__(self) -> None:
        self._best: dict[str, Any] | None = None

    def resume(self, state: RunState) -> str | None:
        return None

    def step_ended(self, state: RunState, outcome: StepOutcome) -> None:
        return

    def steps_ended(self, state: RunState) -> None:
        return

    def epoch_ended(self, state: RunState) -> None:
        if state.best is not None and state.best.epoch == state.epoch:
            self._best = state.weights()

    def save(self, state: RunState) -> None:
        return

    def selected(self, state: RunState) -> dict[str, Any]:
        return state.weights() if self._best is None else self._best


def take_over(
    state: RunState,
    recorder: WeightRecorder,
    metrics: MetricsFile,
    saved: Mapping[str, Any],
    folder: Path,
) -> None:
    """Bring ``state`` to where ``saved`` is, with the records of ``metrics``, and ``recorder`` to
    the entry of its name.

    Where ``saved`` has no optimiser, momentum starts afresh.

    ``folder`` of the checkpoint, for errors: ``CheckpointError`` for a state of another version of
    lrat, of another model, or of something else.
    """
    ours = state.state_dict()
    unknown = sorted(map(str, saved.keys() - ours.keys() - {"recorder", "records"}))
    if unknown:
        raise CheckpointError(
            f"the newest checkpoint in {folder} holds {', '.join(unknown)}, which this version of "
            "lrat does not know: continue with the version that wrote it, or in another folder"
        )
    optimizer = saved.get("optimizer")
    try:
        check_fit(state.model, saved["model"], f"the newest checkpoint in {folder}")
        state.load_state_dict(
            {**saved, "optimizer": ours["optimizer"] if optimizer is None else optimizer},
            [EpochRecord.from_json(line) for line in metrics.lines(saved["records"])],
        )
        recorder.load_state_dict(saved["recorder"])
    except (RuntimeError, *NOT_AS_WRITTEN) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(
            f"the newest checkpoint in {folder} is no state of a run that this version of lrat "
            f"knows ({reason}): continue with the version that wrote it, or remove it to continue "
            "from the one before"
        ) from error


def best_of(records: Sequence[EpochRecord], epochs: Collection[int], lost: Best) -> Best | None:
    """The best of ``epochs`` by the measure that chose ``lost``; None without any."""
    known = [record for record in records if record.epoch == lost.epoch]
    for key in known[0].validation if known else ():
        try:
            if _chosen(records, key) == lost:
                return _chosen([record for record in records if record.epoch in epochs], key)
        except (NonFiniteError, UnknownNameError):
            continue  # no measure that a run could have selected by
    return None


def _chosen(records: Sequence[EpochRecord], key: str) -> Best | None:
    best: Best | None = None
    for record in records:
        best = choose(best, record, key)
    return best


def check_fit(model: nn.Module, weights: Mapping[str, Any], origin: str) -> None:
    """Refuse the weights of another architecture or number of classes; ``CheckpointError``."""
    reason = misfit(model, weights)
    if reason is not None:
        raise CheckpointError(
            f"{origin} does not fit this model: {reason}; train the same architecture with the "
            "same number of classes, or choose another folder"
        )


def misfit(model: nn.Module, weights: Mapping[str, Any]) -> str | None:
    """Why ``weights`` are none of this model, in words; None if they are."""
    current: Mapping[str, Any] = model.state_dict()
    for what, names in (
        ("lacks", [name for name in current if name not in weights]),
        ("holds unknown", [name for name in weights if name not in current]),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            return f"it {what} {names[0]}{more}"
    for name, value in current.items():
        other = weights[name]
        if isinstance(value, Tensor) != isinstance(other, Tensor):
            return f"{name} is a {type(other).__name__} there and a {type(value).__name__} here"
        if isinstance(value, Tensor) and value.shape != other.shape:
            return f"{name} is {list(other.shape)} there and {list(value.shape)} in the model"
    return None
