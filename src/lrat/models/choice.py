"""One of several things that a network returns."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from lrat.types import Images


class PickOutput(nn.Module):
    """``model``, of whose output only the part under ``key`` is returned.

    ``key``: the index in a tuple or list, or the name of a mapping's key or of a field. For a
    network that returns several tensors, none of them under the name ``logits``. Weights are named
    ``model.`` and their own name. What is not there raises as it does for the output itself.
    """

    def __init__(self, model: nn.Module, key: int | str) -> None:
        super().__init__()
        self.model = model
        self.key = key
        self.training = model.training

    def forward(self, images: Images) -> Any:
        output = self.model(images)
        if isinstance(self.key, int) or isinstance(output, Mapping):
            return output[self.key]
        return getattr(output, self.key)
