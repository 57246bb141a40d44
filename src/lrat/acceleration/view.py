"""The attack's view of a model: an evaluation-mode copy that computes the same thing faster."""

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
    """How a view computes; plain values, so that a run can record them and choose them again.

    ``precision`` of the network inside (images, logits and losses stay float32);
    ``channels_last`` memory format inside; ``fold`` BatchNorm into the layer before it;
    ``compiled`` by torch.compile; ``graphs``: replayed as CUDA graphs (on CUDA alone, see
    ``graphs.py``). ``Choices.plain()`` changes nothing.
    """

    fold: bool = True
    channels_last: bool = False
    precision: Precision = "float32"
    compiled: bool = False
    graphs: bool = False

    @staticmethod
    def plain() -> "Choices":
        """Nothing but a frozen copy in eval mode: float32, no folding."""
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
            raise SettingError(f"{text!r} names no way to compute, as {Choices()!s} does")
        return choices


class View(nn.Module, ABC):
    """A model as attacks see it: [B C H W] float32 in, logits [B K] float32 out.

    ``original`` is the model that verdicts are confirmed on. After its weights have changed call
    ``refresh()``. ``folded`` and ``unfolded`` count BatchNorm layers. ``notes``: that it was left
    for another one, in sentences.
    """

    original: nn.Module
    choices: Choices
    notes: tuple[str, ...] = ()
    folded: int = 0
    unfolded: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether it is the original itself."""
        return False

    def gives_way(self, error: Exception) -> bool:
        """Whether what raised ``error`` was left for another view, so that one may try again."""
        return False

    def begin_attack(self) -> None:
        """From here on it is another attack that calls the view."""

    def use(self, choices: Choices) -> None:
        """See the model in these choices, as an earlier process did, where the view may choose."""

    def check(self) -> tuple[str, ...]:
        """What there is to say since the last check: that a view was left, which attacks saw."""
        return ()

    @abstractmethod
    def refresh(self) -> "View":
        """Take over the original's weights and statistics."""


class PlainView(View):
    """The model itself in eval mode: for one that cannot be copied, or whose copy differs."""

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

    ``images`` [B C H W]: a few, on which what can be folded is observed; by default the first ones
    that come. Raises SettingError for choices that change nothing (that is ``PlainView``), and what
    copying the model or its forward raises.
    """

    fast: nn.Module
    _folded_names: set[str]

    def __init__(self, original: nn.Module, choices: Choices, images: Images | None = None) -> None:
        super().__init__()
        if choices == Choices.plain():
            raise SettingError(f"FastView(choices={choices!r}): use PlainView")
        # Not a submodule: the original's modes and hooks are none of the view's business.
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
        """Always in eval mode."""
        return super().train(False)

    def refresh(self) -> "FastView":
        """Take over the original's weights and statistics, in place and by name, and attributes
        that changed; where more did, a module, a hook, the copy is made anew."""
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
            # One call for all: on a GPU a kernel for many tensors instead of one for each.
            if to:
                torch._foreach_copy_(to, of)
        return self

    def _targets(self, names: Collection[str]) -> dict[str, Tensor]:
        """The copy's tensors by name, at least those of these ``names`` that it has."""
        found = registered(self.fast)
        # Some are in plain attributes.
        return found if found.keys() >= set(names) else State.of(self.fast).tensors

    def _takes_over(self, changed: set[Attribute | None], state: State, images: Images) -> bool:
        """Give the copy these attributes of the original, as ``state`` found them; False where that
        may not be enough: what was observed of the model depends on them, or they cannot be copied
        by themselves."""
        if not changed:
            return True
        attributes = {key for key in changed if key and key[0] not in self._folded_names}
        is_fixed = self.choices.compiled or self.choices.graphs or self._found.idle
        if is_fixed or attributes != changed or attributes & state.bound:
            return False
        self._set(attributes, state)
        with self._precision(images):
            if not flows_alike(self.fast, self._laid_out(images), self._found):
                return False
        self._set(attributes, state)  # which this forward may have changed in the copy
        self._state = state.without_tensors()
        return True

    def _set(self, attributes: set[Attribute], state: State) -> None:
        tensors = [state.tensors[name] for name in state.holders]
        copies: dict[int, Any] = {id(value): value.detach().clone() for value in tensors}
        for path, name in attributes:
            value = vars(self.original.get_submodule(path))[name]
            vars(self.fast.get_submodule(path))[name] = copy.deepcopy(value, dict(copies))

    def _copy(self, images: Images) -> None:
        """Make the copy, with what one forward of ``images`` shows of the original."""
        choices = self.choices
        with torch.inference_mode(False), torch.no_grad(), evaluating(self.original):
            found = self._found = observed(self.original, images)
            self._state = State.of(self.original).without_tensors()
            fast = private_copy(self.original)
            self._images = images.detach()[:OBSERVED].clone()
            self._pairs = found.pairs if choices.fold else ()
            self._folded_names = {name for pair in self._pairs for name in (pair.layer, pair.norm)}
            self.folded = len(self._pairs)
            self.unfolded = _norms_in(self.original) - self.folded
            for name, kind, number in found.idle:
                del getattr(fast.get_submodule(name), kind)[number]
            for pair in self._pairs:
                _install(fast, pair)
            if choices.precision == "bfloat16":
                _lower(fast, found.head)
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
    """Put the folded weights into the copy's layer and nothing into the norm's place."""
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
    """Store convolutions and linear layers in bfloat16; autocast converts what flows into them.

    The layer that makes the logits stays in float32: losses compare logits with each other, and
    8 bits of them cost Auto-PGD on the DLR loss .003 of mean margin on Fashion-MNIST.
    """
    for name, module in fast.named_modules():
        if name == head:
            module.__class__ = _Float32Linear
        elif type(module) in _LOW_PRECISION_LAYERS:
            module.to(torch.bfloat16)


def _norms_in(module: nn.Module) -> int:
    return sum(isinstance(each, NORMS) for each in module.modules())
