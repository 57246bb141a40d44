"""Which BatchNorm layers can be folded into the layer before them, and the arithmetic of it."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
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


def foldable_pairs(model: nn.Module) -> list[Pair]:
    """Every layer whose output goes into one BatchNorm and nowhere else.

    Read off the traced graph where torch.fx can trace the model; off ``nn.Sequential`` neighbours
    where it cannot (control flow that depends on the images). Layers that are shared, hooked,
    parametrised or subclassed, and norms without running statistics, are left alone.
    """
    once = _used_once(model)
    found = _traced_pairs(model)
    if found is None:
        found = _sequential_pairs(model)
    modules = dict(model.named_modules())
    return [
        pair
        for pair in found
        if {pair.layer, pair.norm} <= once
        and _plain(modules[pair.layer], _LAYERS)
        and _plain(modules[pair.norm], NORMS)
        and _fits(modules[pair.layer], modules[pair.norm])
    ]


def output_layer(model: nn.Module) -> str | None:
    """The name of the linear layer whose output is the model's; None where there is no such one.

    Where the model cannot be traced: its last linear layer.
    """
    linear = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    graph = _graph_of(model)
    if graph is None:
        return linear[-1] if linear else None
    (result,) = (node for node in graph.nodes if node.op == "output")
    names = (str(node.target) for node in result.all_input_nodes)
    return next((name for name in names if name in linear), None)


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


class _Tracer(torch.fx.Tracer):
    """Every module that has no children is a leaf, also a user's own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(True for _ in m.children()) or super().is_leaf_module(
            m, module_qualified_name
        )


def _graph_of(model: nn.Module) -> torch.fx.Graph | None:
    try:
        return _Tracer().trace(model)
    except Exception:
        return None


def _traced_pairs(model: nn.Module) -> list[Pair] | None:
    graph = _graph_of(model)
    if graph is None:
        return None
    calls = [node for node in graph.nodes if node.op == "call_module"]
    by_name: dict[str, list[torch.fx.Node]] = {}
    for node in calls:
        by_name.setdefault(str(node.target), []).append(node)
    pairs = []
    for node in calls:
        name = str(node.target)
        if not isinstance(model.get_submodule(name), NORMS) or len(by_name[name]) > 1:
            continue
        source = node.args[0] if node.args else None
        if not isinstance(source, torch.fx.Node) or source.op != "call_module":
            continue
        layer = str(source.target)
        if len(source.users) == 1 and len(by_name[layer]) == 1:
            pairs.append(Pair(layer, name))
    return pairs


def _sequential_pairs(model: nn.Module) -> list[Pair]:
    pairs = []
    for prefix, module in model.named_modules():
        if type(module) is not nn.Sequential:
            continue
        names = [f"{prefix}.{name}" if prefix else name for name, _ in module.named_children()]
        parts = list(module.children())
        if len(parts) != len(names):
            continue
        pairs += [
            Pair(layer_name, norm_name)
            for (layer_name, layer), (norm_name, norm) in pairwise(zip(names, parts, strict=True))
            if isinstance(layer, _LAYERS) and isinstance(norm, NORMS)
        ]
    return pairs


def _used_once(model: nn.Module) -> set[str]:
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
