"""The observation of a model by one forward: BatchNorm that can be folded, head, FLOP, hooks.

The hooks of the observation are on a private copy, and PyTorch's dispatch mode applies to this
thread alone, so no other thread is affected. A BatchNorm layer can be folded into the layer before
it where that layer is used once.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from lrat.acceleration.state import hooks_of, private_copy
from lrat.outputs import logits_of
from lrat.randomness import random_state_kept
from lrat.types import Images

OBSERVED = 2
"""The number of images that one observation needs."""

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


@dataclass(frozen=True)
class Observation:
    """``pairs`` that can be folded; ``head``: the linear layer whose output is the logits, if there
    is one; ``flop`` of one image's forward; ``idle``: hooks, as (module, kind, number), that change
    nothing, such as those that only store their arguments."""

    pairs: tuple[Pair, ...]
    head: str | None
    flop: float
    idle: tuple[tuple[str, str, int], ...]


def observed(model: nn.Module, images: Images) -> Observation:
    """One forward of a few of ``images`` [B C H W] through a private copy in eval mode.

    A BatchNorm can be folded where its input is the output of a layer that nothing else reads in
    this forward; the caller must compare the results after folding. Raises the exceptions of
    copying the model and of its forward.
    """
    copied = private_copy(model)
    names = {module: name for name, module in copied.named_modules()}
    hooks = _watched_hooks(copied)
    images = images[:OBSERVED]
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        random_state_kept(),
        _Flow(copied) as flow,
    ):
        logits = logits_of(
            copied(images.detach().clone(memory_format=torch.contiguous_format)), len(images)
        )
    head = flow.head(logits)
    idle = [key for key, hook in hooks.items() if hook.is_idle]
    for name, kind, number in idle:
        del getattr(copied.get_submodule(name), kind)[number]
    once = used_once(copied)
    return Observation(
        pairs=tuple(
            Pair(names[layer], names[norm])
            for layer, norm in flow.neighbours(logits)
            if {names[layer], names[norm]} <= once and can_fold(layer, norm)
        ),
        head=names[head] if type(head) is nn.Linear else None,
        flop=flow.flop / len(images),
        idle=tuple(idle),
    )


def flows_alike(fast: nn.Module, images: Images, earlier: Observation) -> bool:
    """Whether one forward of a copy, in which the pairs of the ``earlier`` observation are folded,
    shows that they still can be, and that the head is the same."""
    names = {module: name for name, module in fast.named_modules()}
    folded = {fast.get_submodule(pair.norm) for pair in earlier.pairs}
    try:
        with random_state_kept(), _Flow(fast, folded) as flow:
            logits = logits_of(fast(images.clone()), len(images))
    except Exception:  # for example, a forward that reads a weight of a norm
        return False
    pairs = {Pair(names[layer], names[norm]) for layer, norm in flow.neighbours(logits)}
    head = flow.head(logits)
    return pairs >= set(earlier.pairs) and earlier.head in (None, head and names[head])


class _Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the outputs of layers through one forward of ``model``, and counts FLOP.

    ``folded``: modules that replace a norm, and return their input.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: to skip the compiler, PyTorch would import it, which takes a second or two."""
        return False

    def __init__(self, model: nn.Module, folded: Collection[nn.Module] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flop = 0
        self.outputs: list[tuple[nn.Module, Tensor]] = []
        self._calls: Counter[nn.Module] = Counter()
        self._reads: Counter[int] = Counter()
        self._inputs: dict[nn.Module, tuple[Any, int]] = {}
        self._reads_by_norm: dict[nn.Module, int] = {}
        self._handles: list[Any] = []
        self._depth = 0
        self._read_outside: set[int] = set()
        self._norms = {*folded, *(each for each in model.modules() if isinstance(each, NORMS))}
        for module in model.modules():
            if module in self._norms or isinstance(module, LAYERS):
                self._handles.append(module.register_forward_pre_hook(self._before))
                self._handles.append(module.register_forward_hook(self._after))

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        named = named or {}
        result = function(*arguments, **named)
        for value in tree_leaves((arguments, named)):
            if isinstance(value, Tensor):
                self._reads[id(value)] += 1
                if not self._depth:
                    self._read_outside.add(id(value))
        count = flop_registry.get(function._overloadpacket)
        if count is not None:
            self.flop += count(*arguments, **named, out_val=result)
        return result

    def neighbours(self, logits: Tensor) -> list[tuple[nn.Module, nn.Module]]:
        """Each layer whose output one BatchNorm alone reads, with that BatchNorm."""
        pairs = []
        for norm, (source, reads_before) in self._inputs.items():
            layer = next((layer for layer, output in self.outputs if output is source), None)
            if (
                layer is not None
                and source is not logits
                and self._calls[layer] == self._calls[norm] == 1
                and reads_before == 0
                and self._reads[id(source)] == self._reads_by_norm[norm]
                and not self._is_read_outside(layer, norm)
            ):
                pairs.append((layer, norm))
        return pairs

    def head(self, logits: Tensor) -> nn.Module | None:
        """The layer whose output the ``logits`` are."""
        return next((layer for layer, output in self.outputs if output is logits), None)

    def _is_read_outside(self, *modules: nn.Module) -> bool:
        """Whether a weight or statistic of theirs is used beside their own calls."""
        tensors = [value for each in modules for value in (*each.parameters(), *each.buffers())]
        return any(id(value) in self._read_outside for value in tensors)

    def _before(self, module: nn.Module, inputs: Any) -> None:
        self._depth += 1
        if module in self._norms:
            source = inputs[0] if inputs else None
            self._inputs[module] = source, self._reads[id(source)]

    def _after(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        self._depth -= 1
        self._calls[module] += 1
        if module not in self._norms:
            self.outputs.append((module, output))  # a reference, so that no other gets its id
            self._reads[id(output)] = 0
            return output
        if inputs and output is inputs[0]:
            # Another tensor, since reading a folded norm's output is not reading its input.
            output = output.view_as(output)
        self._reads_by_norm[module] = self._reads[id(inputs[0])] if inputs else 0
        return output


class _WatchedHook:
    """Calls a hook and remembers whether it ever changed something."""

    def __init__(self, hook: Any) -> None:
        self._hook = hook
        self._calls = 0
        self._has_acted = False

    @property
    def is_idle(self) -> bool:
        return self._calls > 0 and not self._has_acted

    def __call__(self, module: nn.Module, *arguments: Any) -> Any:
        before = _marks(module, arguments)
        result = self._hook(module, *arguments)
        after = _marks(module, arguments)
        same = len(before) == len(after) and all(
            one is other and version == other_version
            for (one, version), (other, other_version) in zip(before, after, strict=True)
        )
        self._calls += 1
        self._has_acted |= result is not None or not same
        return result


def _watched_hooks(model: nn.Module) -> dict[tuple[str, str, int], _WatchedHook]:
    """Replace every forward hook of ``model`` by a watched one. Backward hooks stay, since no
    forward shows their effects."""
    watched = {}
    for name, module in model.named_modules():
        for (kind, number), hook in hooks_of(module).items():
            if "forward" in kind:
                watched[name, kind, number] = _WatchedHook(hook)
                getattr(module, kind)[number] = watched[name, kind, number]
    return watched


def _marks(module: nn.Module, arguments: Any) -> list[tuple[Any, int]]:
    """The values that a hook could change, of its arguments and of the module, with versions."""
    tables = (vars(module), module._parameters, module._buffers, module._modules)
    values = [*tree_leaves(arguments), *(value for table in tables for value in table.values())]
    return [
        (value, value._version if isinstance(value, Tensor) and not value.is_inference() else 0)
        for value in values
    ]


def can_fold(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether the norm can be folded into the layer: not with hooks, parametrisations, subclasses,
    or without running statistics."""
    return _plain(layer, LAYERS) and _plain(norm, NORMS) and _fits(layer, norm)


def folded(layer: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of one layer that equals ``layer`` followed by ``norm`` in eval mode.

    norm(Wx + b) = g (Wx + b - m) / sqrt(v + eps) + beta.
    """
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    mean = norm.running_mean if layer.bias is None else norm.running_mean - layer.bias
    bias = -mean * scale if norm.bias is None else torch.addcmul(norm.bias, mean, scale, value=-1)
    return layer.weight * scale.view(-1, *[1] * (layer.weight.dim() - 1)), bias


def used_once(model: nn.Module) -> set[str]:
    """Modules with a single name; a shared module may be called in several positions."""
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    return {several[0] for several in names.values() if len(several) == 1}


def _plain(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether the module is of one of these classes, not of a subclass, and has no hooks."""
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
