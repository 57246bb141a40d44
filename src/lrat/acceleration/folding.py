"""Which BatchNorm layers can be folded into the layer before them, and the arithmetic of it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORM_OF: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.Linear: nn.BatchNorm1d,
}


@dataclass(frozen=True)
class Pair:
    """Names of a layer and of the BatchNorm that alone consumes its output."""

    layer: str
    norm: str


def can_fold(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether the two fit. Layers that are hooked, parametrised or subclassed, and norms without
    running statistics, are left alone."""
    return _plain(layer, LAYERS) and _plain(norm, NORMS) and _fits(layer, norm)


def folded(layer: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer that does what ``layer`` and then ``norm`` do in eval mode.

    norm(Wx + b) = g (Wx + b - m) / sqrt(v + eps) + beta.
    """
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    mean = norm.running_mean if layer.bias is None else norm.running_mean - layer.bias
    bias = -mean * scale if norm.bias is None else torch.addcmul(norm.bias, mean, scale, value=-1)
    return layer.weight * scale.view(-1, *[1] * (layer.weight.dim() - 1)), bias


def used_once(model: nn.Module) -> set[str]:
    """Modules that have one name: a shared module may be called elsewhere too."""
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    return {found[0] for found in names.values() if len(found) == 1}


def _plain(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Exactly one of the library's own classes, with nothing attached that sees its output."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return type(module) in kinds and not any(hooks) and "forward" not in vars(module)


def _fits(layer: Any, norm: Any) -> bool:
    statistics = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    width = getattr(layer, "out_channels", None) or getattr(layer, "out_features", None)
    return bool(
        isinstance(norm, _NORM_OF[type(layer)] | nn.SyncBatchNorm)
        and all(part is not None for part in statistics)
        and norm.num_features == width
    )
