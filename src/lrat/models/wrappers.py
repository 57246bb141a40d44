"""Wrappers around networks: normalisation, the choice of an output, missing hooks and modes.

``Normalize`` is a layer, so that every attack gets images in [0, 1]; ``PickOutput`` returns one of
several outputs of a network; ``hookable`` wraps modules that lack hooks or modes of ``nn.Module``
(TorchScript, exported programs). ``check_images`` refuses images of the wrong shape for a network.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

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


Statistics: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""Mean and std per channel, in [0, 1] pixel units."""

NORMALIZATIONS: Mapping[str, Statistics] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
"""The channels' means and deviations that published weights for these data sets are used with."""


class Normalized(nn.Module):
    """``network`` behind its normalisation: images in [0, 1] in, what the network returns out.

    ``normalize`` is a ``Normalize``, or an ``Identity`` where there is nothing to do. Weights are
    named ``network.`` and the network's own name. ``fresh``: names of weights that were not loaded
    from where the others came from, as those of a new last layer.
    """

    fresh: tuple[str, ...] = ()

    def __init__(self, network: nn.Module, normalize: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.network = network
        self.training = network.training

    def forward(self, images: Images) -> Any:
        return self.network(self.normalize(images))


def with_normalization(
    network: nn.Module, normalize: str | Statistics | None, channels: int = 3
) -> Normalized:
    """``network`` for images in [0, 1], which it gets normalised.

    ``normalize``: a name of ``NORMALIZATIONS``, (mean, std) with one number per channel or one for
    all, ``"MEAN;STD"`` as ``"0.5,0.5,0.5;0.2,0.2,0.2"``, or ``"none"`` or None for nothing. For
    grey images three numbers become their average. Raises SettingError for anything else.
    """
    if normalize is None or normalize == "none":
        return Normalized(network, nn.Identity())
    statistics = statistics_of(normalize) if isinstance(normalize, str) else normalize
    mean, std = (_per_channel(list(values), channels) for values in statistics)
    if len(mean) != channels:
        raise SettingError(
            f"normalize={shown(normalize)} is of {len(mean)} channels, the images have {channels}: "
            "give one mean and one std for each, as MEAN,MEAN;STD,STD, or none"
        )
    return Normalized(network, Normalize(mean, std))


def statistics_of(text: str) -> Statistics:
    """Mean and std that a user names: ``imagenet``, ``cifar10`` or ``MEAN,...;STD,...``."""
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    mean, semicolon, std = text.partition(";")
    try:
        parts = [[float(each) for each in part.split(",")] for part in (mean, std)]
    except ValueError:
        semicolon = ""
    if not semicolon:
        known = ", ".join((*NORMALIZATIONS, "none"))
        raise SettingError(
            f"normalize={shown(text)}: write {known} or MEAN,...;STD,..., as 0.5,0.5,0.5;.2,.2,.2"
        )
    Normalize(*parts)  # refuses what is no mean or std
    return parts[0], parts[1]


def _per_channel(values: list[float], channels: int) -> list[float]:
    if len(values) == 1:
        return values * channels
    return [sum(values) / len(values)] if channels == 1 else values


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
