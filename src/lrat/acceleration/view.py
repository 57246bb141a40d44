"""The attack's view of a model: a copy in eval mode that computes the same function faster."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lrat.acceleration.graphs import GraphedNetwork
from lrat.acceleration.observe import NORMS, OBSERVED, Pair, flows_alike, folded, observed
from lrat.acceleration.state import Attribute, State, private_copy, registered
from lrat.errors import SettingError
from lrat.modes import evaluating
from lrat.outputs import logits_of
from lrat.types import Images, Logits

Precision = Literal["float32", "bfloat16"]
_LOW_PRECISION_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How a view computes; plain values, which a run records and can use again.

    ``precision`` of the network (images, logits and losses stay float32); ``channels_last`` memory
    format; ``fold`` BatchNorm into the layer before it; ``compiled`` by torch.compile; ``graphs``:
    replayed as CUDA graphs (on CUDA alone, see ``graphs.py``). ``Choices.plain()`` changes nothing.
    """

    fold: bool = True
    channels_last: bool = False
    precision: Precision = "float32"
    compiled: bool = False
    graphs: bool = False

    @staticmethod
    def plain() -> "Choices":
        """Only a frozen copy in eval mode: float32, no folding."""
        return Choices(fold=False)

    def __str__(self) -> str:
        """``bfloat16, channels_last, BatchNorm folded``; ``parse`` reads it back."""
        parts: list[str] = [self.precision]
        parts += ["channels_last"] if self.channels_last else []
        parts += ["BatchNorm folded"] if self.fold else []
        parts += ["compiled"] if self.compiled else []
        parts += ["CUDA graphs"] if self.graphs else []
        return ", ".join(parts)

    @staticmethod
    def parse(text: str) -> "Choices":
        """The choices that print as ``text``; SettingError for anything else."""
        parts = set(text.split(", "))
        choices = Choices(
            fold="BatchNorm folded" in parts,
            channels_last="channels_last" in parts,
            precision="bfloat16" if "bfloat16" in parts else "float32",
            compiled="compiled" in parts,
            graphs="CUDA graphs" in parts,
        )
        if str(choices) != text:
            raise SettingError(f"{text!r} names no choices, as {Choices()!s} does")
        return choices


class View(nn.Module, ABC):
    """A model as attacks use it: [B C H W] float32 in, logits [B K] float32 out.

    ``original`` is the model that confirms verdicts. After a change of its weights call
    ``refresh()``. ``folded`` and ``unfolded`` count BatchNorm layers. ``notes``: sentences about
    views that were replaced by others.
    """

    original: nn.Module
    choices: Choices
    notes: tuple[str, ...] = ()
    folded: int = 0
    unfolded: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether the view is the original itself."""
        return False

    def gives_way(self, error: Exception) -> bool:
        """Whether ``error`` led to another view, so that the caller may try again."""
        return False

    def begin_attack(self) -> None:
        """The next calls belong to another attack."""

    def use(self, choices: Choices) -> None:
        """Use these choices of an earlier process, if the view can choose."""

    def check(self) -> tuple[str, ...]:
        """The notes since the last check, about views that were replaced."""
        return ()

    @abstractmethod
    def refresh(self) -> "View":
        """Take over the original's weights and statistics."""


class PlainView(View):
    """The model itself in eval mode, for models that cannot be copied or whose copy differs."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original
        self.choices = Choices.plain()
        self.unfolded = _norms_in(original)

    @property
    def is_plain(self) -> bool:
        return True

    def forward(self, images: Images) -> Logits:
        with evaluating(self.original):
            return logits_of(self.original(images), len(images)).float()

    def refresh(self) -> "PlainView":
        return self


class FastView(View):
    """A frozen copy in eval mode that computes the same as the original, faster.

    ``images`` [B C H W]: a few, to observe which layers can be folded; by default those of the
    first forward. Raises SettingError for choices that change nothing (use ``PlainView``), and the
    exceptions of copying the model and of its forward.
    """

    fast: nn.Module
    _folded_names: set[str]

    def __init__(self, original: nn.Module, choices: Choices, images: Images | None = None) -> None:
        super().__init__()
        if choices == Choices.plain():
            raise SettingError(f"FastView(choices={choices!r}): use PlainView")
        # Not as a submodule, so that the view does not change the original's modes and hooks.
        self.__dict__["original"] = original
        self.choices = choices
        self.unfolded = _norms_in(original)
        self._images: Images | None = None
        if images is not None:
            self._copy(images)
        self.train(False)

    def forward(self, images: Images) -> Logits:
        if self._images is None:
            self._copy(images)
        with self._precision(images):
            return logits_of(self._run(self._laid_out(images)), len(images)).float()

    def begin_attack(self) -> None:
        if self._images is not None and isinstance(self._run, GraphedNetwork):
            self._run.begin_attack()

    def train(self, mode: bool = True) -> "FastView":
        """Stays in eval mode."""
        return super().train(False)

    def refresh(self) -> "FastView":
        """Take over the original's weights and statistics, in place and by name, and attributes
        that changed; where a module or hook changed, copy the model again."""
        if self._images is None:
            return self
        with torch.inference_mode(False), torch.no_grad(), evaluating(self.original):
            state = State.of(self.original)
            sources = state.tensors
            names = [name for name in sources if name.rpartition(".")[0] not in self._folded_names]
            targets, changed = self._targets(names), state.changed(self._state)
            odd = {
                state.holders.get(name)
                for name in names
                if name not in targets or targets[name].shape != sources[name].shape
            }
            if changed is None or not self._takes_over(changed | odd, state, self._images):
                self._copy(self._images)
                return self
            if changed | odd:
                targets = self._targets(names)
            to, of = [targets[name] for name in names], [sources[name] for name in names]
            for pair in self._pairs:
                layer = self.original.get_submodule(pair.layer)
                of += folded(layer, self.original.get_submodule(pair.norm))
                stored: Any = self.fast.get_submodule(pair.layer)
                to += [stored.weight, stored.bias]
            # One call for all, so that a GPU launches one kernel for many tensors.
            if to:
                torch._foreach_copy_(to, of)
        return self

    def _targets(self, names: Collection[str]) -> dict[str, Tensor]:
        """The copy's tensors by name, at least those of these ``names`` that it has."""
        targets = registered(self.fast)
        # Plain attributes may hold others.
        return targets if targets.keys() >= set(names) else State.of(self.fast).tensors

    def _takes_over(self, changed: set[Attribute | None], state: State, images: Images) -> bool:
        """Copy these attributes of the original, which has this ``state``; False where that may not
        suffice: the observation of the model depends on them, or they cannot be copied alone."""
        if not changed:
            return True
        attributes = {key for key in changed if key and key[0] not in self._folded_names}
        is_fixed = self.choices.compiled or self.choices.graphs or self._observation.idle
        if is_fixed or attributes != changed or attributes & state.bound:
            return False
        self._set(attributes, state)
        with self._precision(images):
            if not flows_alike(self.fast, self._laid_out(images), self._observation):
                return False
        self._set(attributes, state)  # again, since this forward may have changed them
        self._state = state.without_tensors()
        return True

    def _set(self, attributes: set[Attribute], state: State) -> None:
        tensors = [state.tensors[name] for name in state.holders]
        copies: dict[int, Any] = {id(value): value.detach().clone() for value in tensors}
        for path, name in attributes:
            value = vars(self.original.get_submodule(path))[name]
            vars(self.fast.get_submodule(path))[name] = copy.deepcopy(value, dict(copies))

    def _copy(self, images: Images) -> None:
        """Copy the original, as one forward of ``images`` through it allows."""
        choices = self.choices
        with torch.inference_mode(False), torch.no_grad(), evaluating(self.original):
            observation = self._observation = observed(self.original, images)
            self._state = State.of(self.original).without_tensors()
            fast = private_copy(self.original)
            self._images = images.detach()[:OBSERVED].clone()
            self._pairs = observation.pairs if choices.fold else ()
            self._folded_names = {name for pair in self._pairs for name in (pair.layer, pair.norm)}
            self.folded = len(self._pairs)
            self.unfolded = _norms_in(self.original) - self.folded
            for name, kind, number in observation.idle:
                del getattr(fast.get_submodule(name), kind)[number]
            for pair in self._pairs:
                _install(fast, pair)
            if choices.precision == "bfloat16":
                _lower(fast, observation.head)
            for tensor in State.of(fast).tensors.values():
                tensor.requires_grad_(False)
            if choices.channels_last:
                fast.to(memory_format=torch.channels_last)
        self.fast = fast
        run: Any = torch.compile(fast) if choices.compiled else fast
        self._run = GraphedNetwork(run) if choices.graphs else run

    def _laid_out(self, images: Tensor) -> Tensor:
        if self.choices.channels_last and images.dim() == 4:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def _precision(self, images: Tensor) -> AbstractContextManager[object]:
        if self.choices.precision == "float32":
            return nullcontext()
        # Without a cache: the weights are stored in bfloat16, and graphs forbid one.
        return torch.autocast(images.device.type, torch.bfloat16, cache_enabled=False)


def _install(fast: nn.Module, pair: Pair) -> None:
    """Put the folded weights into the copy's layer, and the identity instead of the norm."""
    layer: Any = fast.get_submodule(pair.layer)
    weight, bias = folded(layer, fast.get_submodule(pair.norm))
    layer.weight = nn.Parameter(weight)
    layer.bias = nn.Parameter(bias)
    parent, _, name = pair.norm.rpartition(".")
    setattr(fast.get_submodule(parent), name, nn.Identity())


class _Float32Linear(nn.Linear):
    """A linear layer that stays in float32 under autocast."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def _lower(fast: nn.Module, head: str | None) -> None:
    """Store convolutions and linear layers in bfloat16; autocast converts their inputs.

    The head stays in float32: losses compare logits with each other, and logits of 8 bits increased
    the mean margin after Auto-PGD on the DLR loss by .003 on Fashion-MNIST.
    """
    for name, module in fast.named_modules():
        if name == head:
            module.__class__ = _Float32Linear
        elif type(module) in _LOW_PRECISION_LAYERS:
            module.to(torch.bfloat16)


def _norms_in(module: nn.Module) -> int:
    return sum(isinstance(each, NORMS) for each in module.modules())
