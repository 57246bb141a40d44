"""Wrappers around networks: normalisation, the choice of an output, missing hooks and modes.

``Normalize`` is a layer, so that every attack gets images in [0, 1]; ``PickOutput`` returns one of
several outputs of a network; ``hookable`` wraps modules that lack hooks or modes of ``nn.Module``
(TorchScript, exported programs). ``check_images`` refuses images of the wrong shape for a network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrat.checks import number
from lrat.errors import ModelError, SettingError
from lrat.text import shown
from lrat.types import Images


class Normalize(nn.Module):
    """(images - mean) / std per channel: the first layer of ``Sequential(Normalize(...), net)``.

    ``mean`` and ``std`` are in [0, 1] pixel units, one number per channel. They are saved with the
    weights, so that a weights file is always evaluated with its normalisation. Raises SettingError
    unless the lengths agree, all numbers are finite and every std is > 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        stated = f"Normalize(mean={shown(mean)}, std={shown(std)})"
        try:
            mean, std = list(mean), list(std)
        except TypeError:
            mean = std = []
        if not mean or len(mean) != len(std):
            raise SettingError(f"{stated}: give one mean and one std per channel, as mean=[0.5]")
        mean = [number(example=0.5)("mean", value, "Normalize") for value in mean]
        std = [number(above=0, example=0.25)("std", value, "Normalize") for value in std]
        if max(map(abs, (*mean, *std))) > 1:
            raise SettingError(
                f"{stated}: mean and std are in [0, 1] pixel units; divide values of 0..255 by 255"
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, images: Images) -> Images:
        """[B C H W] in [0, 1] -> [B C H W] normalised; ModelError for another channel count."""
        check_images(images, "Normalize", len(self.mean), None)
        return (images - self.mean) / self.std


class PickOutput(nn.Module):
    """``model`` with only the part ``key`` of its output.

    ``key``: the index in a tuple or list, or the name of a mapping's key or of a field. For a
    network that returns several tensors, none of them under the name ``logits``; a single tensor,
    as many return in eval mode, is returned unchanged. The names of weights get the prefix
    ``model.``. A missing key raises the same error as for the output itself.
    """

    def __init__(self, model: nn.Module, key: int | str) -> None:
        super().__init__()
        self.model = model
        self.key = key
        self.training = model.training

    def forward(self, images: Images) -> Any:
        output = self.model(images)
        if isinstance(output, Tensor):
            return output
        if isinstance(self.key, int) or isinstance(output, Mapping):
            return output[self.key]
        return getattr(output, self.key)


class Hookable(nn.Module):
    """Wraps a module that accepts no hooks, or refuses to change its mode."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = bool(getattr(module, "training", False))

    def train(self, mode: bool = True) -> "Hookable":
        """Change the mode, where the module has one."""
        self.training = mode
        try:
            self.module.train(mode)
        except (AttributeError, NotImplementedError, RuntimeError):
            for part in self.module.modules():
                if "training" in vars(part):
                    part.training = mode
        return self

    def forward(self, images: Tensor) -> Any:
        return self.module(images)


def hookable(model: nn.Module) -> nn.Module:
    """``model`` itself, or a ``Hookable`` around it where it needs one."""
    is_script = isinstance(model, torch.jit.ScriptModule)
    is_exported = isinstance(model, torch.fx.GraphModule) and "eval" in vars(model)
    return Hookable(model) if is_script or is_exported else model


def check_images(images: Tensor, name: str, channels: int, size: int | None) -> None:
    """ModelError unless the shape of ``images`` is [B channels size size]; ``size`` None allows any
    height and width."""
    shape = tuple(images.shape)
    if len(shape) == 4 and shape[1] == channels and (size is None or shape[2:] == (size, size)):
        return
    expected = f"[B {channels} {size or 'H'} {size or 'W'}]"
    actual = f"[{' '.join(map(str, shape))}]"
    cure = "channels come before height and width"
    if len(shape) == 4 and shape[-1] != channels:
        if shape[1] != channels:
            cure = f"build it with channels={shape[1]}"
        elif shape[2] == shape[3]:
            cure = f"build it with size={shape[2]}"
        else:
            cure = "images must be square"
    raise ModelError(f"{name} takes images {expected}, but got {actual}: {cure}")
