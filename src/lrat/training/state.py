"""Everything that a run is between two steps, as one dictionary and back."""

import copy
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from lrat.acceleration import View
from lrat.attacks.protection import Changes
from lrat.distributed.group import ProcessGroup, texts_of_all
from lrat.errors import CheckpointError
from lrat.files.read import NOT_AS_WRITTEN
from lrat.text import reason
from lrat.training.guards import Guards
from lrat.training.metrics import EpochRecord, EpochSums
from lrat.training.optimisation import WeightAverage
from lrat.training.watch import ATTACK, VIEW, Best
from lrat.types import BatchSource


class RunState:
    """The parts of a run that change: what a checkpoint holds and a continued run starts from.

    ``epoch`` epochs are complete and ``step`` steps of the next one are done, whose sums are
    ``sums``. ``measuring``: these are all its steps, what is left are its measurements, and the
    source is at the start of the epoch after. ``rate``: of the last step. ``memory``: the
    objective's named tensors. ``average``: of the weights, None without; what a run reports are
    then the averaged ones. ``guards``: what they have seen and said. ``view``: how attacks see the
    model, in words that ``Choices.parse`` reads. ``remarks``: what the record of the epoch under
    way will say beside the guards. All randomness is a function of (seed, epoch, step, image), so
    there is no generator to keep.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        source: BatchSource,
        device: torch.device,
        average: WeightAverage | None = None,
        guards: Guards | None = None,
    ) -> None:
        self.model = model
        self.guards = guards
        self.average = average
        self.optimizer = optimizer
        self.source = source
        self.device = device
        self.epoch = 0
        self.step = 0
        self.measuring = False
        self.rate = float(optimizer.param_groups[0]["lr"])
        self.memory: dict[str, Tensor] = {}
        self.sums = EpochSums(device)
        self.records: list[EpochRecord] = []
        self.best: Best | None = None
        self.view: str | None = None
        self.remarks: list[dict[str, str]] = []

    def note(self, seen: nn.Module, changes: Changes) -> None:
        """Keep how attacks see the model, and what there is to say of them so far."""
        if isinstance(seen, View):
            self.view = str(seen.choices)
            for text in seen.notes:
                self.remark(VIEW, text)
        for text in changes.notes:
            self.remark(ATTACK, text)

    def remark(self, about: str, text: str) -> None:
        """Have the record of the epoch under way say it, once in the run."""
        new = {"guard": about, "text": text}
        if not any(new in said for said in (self.remarks, *(r.notices for r in self.records))):
            self.remarks.append(new)

    def share_remarks(self, group: ProcessGroup) -> None:
        """Keep what any of the processes has to say."""
        if group.size > 1:
            said = json.dumps(self.remarks) if self.remarks else ""
            for text in texts_of_all(group, said, self.device):
                for remark in json.loads(text or "[]"):
                    self.remark(remark["guard"], remark["text"])

    def end_epoch(self, record: EpochRecord, best: Best | None) -> None:
        """Move to the start of the next epoch."""
        self.epoch += 1
        self.step = 0
        self.measuring = False
        self.sums = EpochSums(self.device)
        self.remarks = []
        self.records.append(record)
        self.best = best

    @property
    def position(self) -> str:
        """How far the run is, in words."""
        if not self.step:
            return f"after epoch {self.epoch}"
        return f"in epoch {self.epoch + 1} after step {self.step}"

    def weights(self) -> dict[str, Any]:
        """A copy on the CPU of the weights to report: the averaged ones where there are some."""
        with nullcontext() if self.average is None else self.average.applied(self.model):
            weights = self.model.state_dict()
            return {name: _copied(value) for name, value in weights.items()}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values alone; tensors are the living ones, to be written at once.

        ``records`` are not among them: they grow with the epochs.
        """
        return {
            "epoch": self.epoch,
            "step": self.step,
            "measuring": self.measuring,
            "rate": self.rate,
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "source": self.source.state_dict(),
            "memory": dict(self.memory),
            "average": None if self.average is None else self.average.state_dict(),
            "guards": None if self.guards is None else self.guards.state_dict(),
            "sums": self.sums.state_dict(),
            "best": None if self.best is None else asdict(self.best),
            "view": self.view,
            "remarks": [dict(said) for said in self.remarks],
        }

    def load_state_dict(self, state: Mapping[str, Any], records: Sequence[EpochRecord]) -> None:
        """Take over a saved state and the ``records`` of the epochs before it. Raises
        ``CheckpointError`` if it is of another model."""
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"the checkpoint does not fit this model: {reason}; "
                "train the same architecture, or choose another folder"
            ) from error
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.guards is not None and state["guards"] is not None:
            self.guards.load_state_dict(state["guards"], records)
        self.source.load_state_dict(state["source"])
        self.memory.clear()
        self.memory.update({name: value.to(self.device) for name, value in state["memory"].items()})
        self.epoch = state["epoch"]
        self.step = state["step"]
        self.measuring = state["measuring"]
        self.rate = state["rate"]
        self.sums = EpochSums(self.device)
        self.sums.load_state_dict(state["sums"])
        self.records = list(records)
        self.view = state["view"]
        self.remarks = [dict(said) for said in state["remarks"]]
        self.best = None if state["best"] is None else Best(**state["best"])


def _copied(value: Any) -> Any:
    """A tensor on the CPU; what else a state dictionary holds as it is now."""
    return value.detach().cpu().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def reported(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The weights that a saved state reports: the averaged ones where it holds some. Raises
    ``CheckpointError`` where it holds no model."""
    try:
        weights: dict[str, Any] = dict(saved["model"])
        average = saved["average"]
        for name, value in ({} if average is None else average["values"]).items():
            weights[name].copy_(value)  # in place: tied weights share their memory
    except (RuntimeError, *NOT_AS_WRITTEN) as error:
        raise CheckpointError(
            f"the checkpoint holds no model ({type(error).__name__}: {reason(error)}): choose "
            "another checkpoint"
        ) from None
    return weights
