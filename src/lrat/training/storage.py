"""Where a run keeps itself: in its folder, or in memory for as long as it lasts."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from lrat.training.checkpoint import Checkpoints
from lrat.training.metrics import MetricsFile
from lrat.training.outcome import StepOutcome
from lrat.training.recorder import WeightRecorder
from lrat.training.state import RunState, reported


@dataclass(frozen=True, kw_only=True)
class Storage:
    """A run folder: ``metrics.jsonl``, ``checkpoints/`` and ``weights/`` in ``folder``.

    ``identity``: a digest of the configuration; a folder of another one is refused. Epochs count
    from 1: ``keep_epochs`` keep their checkpoints beside the last ``keep_last`` and the selected
    one, ``record_epochs`` write their per-image weights.
    """

    folder: Path
    identity: str
    keep_last: int = 2
    keep_epochs: Collection[int] = ()
    record_epochs: Collection[int] = ()

    def checkpoints(self) -> Checkpoints:
        """The checkpoints in this folder, to be read by whoever needs them."""
        return Checkpoints(
            self.folder / "checkpoints",
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

    def resume(self, state: RunState) -> None:
        """Bring ``state`` to where an earlier process left the run, if there was one."""
        ...

    def step_ended(self, state: RunState, outcome: StepOutcome) -> None:
        """A step was taken: ``state`` stands after it."""
        ...

    def epoch_ended(self, state: RunState) -> None:
        """An epoch is complete: ``state`` stands at the start of the next."""
        ...

    def save(self, state: RunState) -> None:
        """Save within an epoch."""
        ...

    def selected(self, state: RunState) -> dict[str, Tensor]:
        """The weights of the selected epoch, the last one without selection; on the CPU."""
        ...


class FolderKeeper:
    """Keeps a run in its folder; one of several processes ``writes``, the others only read."""

    def __init__(self, storage: Storage, *, writes: bool = True) -> None:
        self._writes = writes
        self.where = f"saved in {storage.folder}: the same command continues it"
        self._checkpoints = storage.checkpoints()
        self._metrics = MetricsFile(storage.folder / "metrics.jsonl")
        self._recorder = WeightRecorder(storage.folder / "weights", epochs=storage.record_epochs)

    def resume(self, state: RunState) -> None:
        saved = self._checkpoints.latest()
        if saved is not None:
            state.load_state_dict(saved)
            self._recorder.load_state_dict(saved["recorder"])
        if self._writes:
            self._metrics.rewrite(record.to_json() for record in state.records)

    def step_ended(self, state: RunState, outcome: StepOutcome) -> None:
        if self._writes and not outcome.skipped:
            self._recorder.add(outcome, epoch=state.epoch + 1)

    def epoch_ended(self, state: RunState) -> None:
        if not self._writes:
            return
        # The checkpoint comes last: what a kill leaves in the other files is then written again.
        self._metrics.append(state.records[-1].to_json())
        self._recorder.write(epoch=state.epoch)
        self.save(state)

    def save(self, state: RunState) -> None:
        if not self._writes:
            return
        self._checkpoints.save(
            {**state.state_dict(), "recorder": self._recorder.state_dict()},
            epoch=state.epoch,
            step=state.step,
            selected=None if state.best is None else state.best.epoch,
        )

    def selected(self, state: RunState) -> dict[str, Tensor]:
        return reported(self._checkpoints.load("selected"))


class MemoryKeeper:
    """Keeps the selected weights alone, for runs without a folder."""

    where = "nothing is saved, as the run was given no storage"

    def __init__(self) -> None:
        self._best: dict[str, Tensor] | None = None

    def resume(self, state: RunState) -> None:
        return

    def step_ended(self, state: RunState, outcome: StepOutcome) -> None:
        return

    def epoch_ended(self, state: RunState) -> None:
        if state.best is not None and state.best.epoch == state.epoch:
            self._best = state.weights()

    def save(self, state: RunState) -> None:
        return

    def selected(self, state: RunState) -> dict[str, Tensor]:
        return state.weights() if self._best is None else self._best
