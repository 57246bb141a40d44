"""Steps whose loss or gradient is not finite: what to blame, and how to leave no trace of one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lrat.objectives.base import ObjectiveOutput
from lrat.training.outcome import KINDS

_DIVERGED = "lower the learning rate, clip gradients, or look at the images of this step"
_WEIGHTS = "a weighting must return finite numbers >= 0"


def blame(outputs: Sequence[ObjectiveOutput], loss: Tensor) -> str:
    """The first record that is not what it must be, in words, with the cure."""
    for output in outputs:
        for name, values in output.per_example.items():
            kind, _, term = name.partition("/")
            if kind == "weight" and (values < 0).any():
                return f"a weight of term {term!r} is {values[values < 0].min():g}: {_WEIGHTS}"
            if kind in KINDS and not torch.isfinite(values).all():
                cure = _WEIGHTS if kind == "weight" else _DIVERGED
                return f"the {kind} of term {term!r} became NaN or infinite: {cure}"
    if torch.isfinite(loss):
        return f"the gradient (though not the loss) became NaN or infinite: {_DIVERGED}"
    if all(torch.isfinite(output.total) for output in outputs):
        return f"the normalizer is 0, so that the loss became NaN or infinite: {_DIVERGED}"
    return f"the loss (though no term alone) became NaN or infinite: {_DIVERGED}"


class Undo:
    """Takes back what a step that is skipped left in buffers (BatchNorm's) and in the memory."""

    def __init__(self, model: nn.Module, memory: dict[str, Tensor]) -> None:
        self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        self._memory = memory
        self._held = {name: value.clone() for name, value in memory.items()}

    def __call__(self) -> None:
        for buffer, before in self._buffers:
            buffer.copy_(before)
        self._memory.clear()
        self._memory.update(self._held)
