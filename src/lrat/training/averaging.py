"""An exponential moving average of a model's weights, beside the model itself."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lrat.checks import ARGUMENTS, FLAG, checked
from lrat.errors import CheckpointError
from lrat.modes import is_running_statistic

_LOW = (torch.float16, torch.bfloat16)


class WeightAverage:
    """average <- d * average + (1 - d) * weights after each step (Polyak & Juditsky 1992; as used
    in adversarial training by Gowal et al. 2020 and Rebuffi et al. 2021).

    Averaged are all floating parameters and BatchNorm's running mean and variance (any buffer of
    that name): statistics of the newest weights do not fit averaged ones. Every other buffer
    (counters, constants, masks, other float buffers) is no weight: under ``applied`` it is the
    model's own, the newest. Averages of float16 and bfloat16 weights are kept in float32.

    ``decay`` is d; with ``warm_up`` it is min(decay, (1 + n) / (10 + n)) after n earlier updates,
    so that the untrained weights are soon forgotten. It starts as a copy of the weights. Nothing
    here waits for the device. Raises ``SettingError``.
    """

    @checked(decay=ARGUMENTS["ema"], warm_up=FLAG)
    def __init__(self, model: nn.Module, *, decay: float, warm_up: bool = True) -> None:
        self.decay = decay
        self.warm_up = warm_up
        self.updates = 0
        self._values = {name: _kept(value) for name, value in _averaged(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's weights; to be called after each step that was taken."""
        decay = self.decay
        if self.warm_up:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        found = _averaged(model)
        values = list(self._values.values())
        newest = [found[name].to(value.dtype) for name, value in self._values.items()]
        if values:
            torch._foreach_lerp_(values, newest, 1 - decay)
        self.updates += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The averaged weights in ``model`` inside, its own back afterwards, bit for bit.

        In place: whoever holds the model's tensors (an optimiser, a view, another process's
        wrapper) sees the same ones. What is done to weights and buffers inside is lost.
        """
        own = [*model.parameters(), *model.buffers()]
        kept = [value.detach().clone() for value in own]
        try:
            with torch.no_grad():
                for name, value in _averaged(model).items():
                    value.copy_(self._values[name])
            yield
        finally:
            with torch.no_grad():
                for value, before in zip(own, kept, strict=True):
                    value.copy_(before)

    def state_dict(self) -> dict[str, Any]:
        """``updates`` and ``values`` by name; the living tensors, to be written at once."""
        return {"updates": self.updates, "values": dict(self._values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved average. Raises ``CheckpointError`` if it is of another model."""
        values = state["values"]
        ours = {name: value.shape for name, value in self._values.items()}
        theirs = {name: value.shape for name, value in values.items()}
        wrong = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
        if wrong:
            raise CheckpointError(
                f"the checkpoint's weight average does not fit this model at {wrong[0]!r}: train "
                "the same architecture, or choose another folder"
            )
        for name, value in self._values.items():
            value.copy_(values[name])
        self.updates = state["updates"]


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that are averaged by name, tied ones once; the model's own memory."""
    found: dict[str, Tensor] = dict(model.named_parameters())
    found |= {name: value for name, value in model.named_buffers() if is_running_statistic(name)}
    return {name: value.detach() for name, value in found.items() if value.is_floating_point()}


def _kept(value: Tensor) -> Tensor:
    """A copy of its own in at least float32."""
    return value.to(torch.float32) if value.dtype in _LOW else value.clone()
