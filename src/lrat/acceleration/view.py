"""The attack's view of a model: an evaluation-mode copy that computes the same thing faster."""

import copy
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lrat.acceleration.folding import NORMS, Pair, foldable_pairs, folded, output_layer
from lrat.acceleration.graphs import GraphedNetwork
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
    ``refresh()``. ``folded`` and ``unfolded`` count BatchNorm layers.
    """

    original: nn.Module
    choices: Choices
    folded: int = 0
    unfolded: int = 0

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

    def forward(self, images: Images) -> Logits:
        with evaluating(self.original):
            return logits_of(self.original(images), len(images)).float()

    def refresh(self) -> "PlainView":
        return self


class FastView(View):
    """A frozen copy in eval mode that computes the same as the original, faster.

    Raises SettingError for choices that change nothing: that is ``PlainView``.
    """

    def __init__(self, original: nn.Module, choices: Choices) -> None:
        super().__init__()
        if choices == Choices.plain():
            raise SettingError(f"FastView(choices={choices!r}): use PlainView")
        # Not a submodule: the original's modes and hooks are none of the view's business.
        self.__dict__["original"] = original
        self.choices = choices
        with evaluating(original):
            fast = copy.deepcopy(original)
            sketch = copy.deepcopy(original)
        with torch.random.fork_rng(devices=[]):
            pairs = foldable_pairs(sketch.eval()) if choices.fold else []
            head = output_layer(sketch)
        self.folded, self.unfolded = len(pairs), _norms_in(original) - len(pairs)
        fast.eval()
        self._pairs: list[Pair] = pairs
        for pair in pairs:
            _install(fast, pair)
        if choices.precision == "bfloat16":
            _lower(fast, head)
        fast.requires_grad_(False)
        if choices.channels_last:
            fast.to(memory_format=torch.channels_last)
        self.fast = fast
        run: Any = torch.compile(fast) if choices.compiled else fast
        self._run = GraphedNetwork(run) if choices.graphs else run
        self._copies = _matching_tensors(original, fast, pairs)
        self.train(False)

    def forward(self, images: Images) -> Logits:
        with self._precision(images):
            if self.choices.channels_last and images.dim() == 4:
                images = images.contiguous(memory_format=torch.channels_last)
            return logits_of(self._run(images), len(images)).float()

    def train(self, mode: bool = True) -> "FastView":
        """Always in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def refresh(self) -> "FastView":
        """Take over the original's weights and statistics, in place."""
        targets = [target for _, target in self._copies]
        sources = [source for source, _ in self._copies]
        for pair in self._pairs:
            layer = self.original.get_submodule(pair.layer)
            sources += folded(layer, self.original.get_submodule(pair.norm))
            stored: Any = self.fast.get_submodule(pair.layer)
            targets += [stored.weight, stored.bias]
        # One call for all: on a GPU a kernel for many tensors instead of one for each.
        torch._foreach_copy_(targets, sources)
        return self

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


def _matching_tensors(
    original: nn.Module, fast: nn.Module, pairs: list[Pair]
) -> list[tuple[Tensor, Tensor]]:
    """Every tensor of the copy that is a plain copy, with its source."""
    skipped = {f"{name}." for pair in pairs for name in (pair.layer, pair.norm)}
    sources, targets = (_named_tensors(module) for module in (original, fast))
    return [
        (source, targets[name])
        for name, source in sources.items()
        if name in targets and not any(name.startswith(prefix) for prefix in skipped)
    ]


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all their names: tied ones have several."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _norms_in(module: nn.Module) -> int:
    return sum(isinstance(each, NORMS) for each in module.modules())
