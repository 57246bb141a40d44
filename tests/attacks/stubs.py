"""A model with a known boundary, attacks with a known effect, a view that is wrong on purpose."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from builders import seeded
from lrat.acceleration import Choices, View
from lrat.attacks import Trace, Variant
from lrat.outputs import logits_of
from lrat.randomness import Noise

BOUNDARY = 0.5


class Bright(nn.Module):
    """Class 1 for images whose mean is above ``boundary``, else class 0."""

    def __init__(self, boundary: float = BOUNDARY, scale: float = 20.0) -> None:
        super().__init__()
        self.boundary, self.scale = boundary, scale
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        score = self.scale * (images.flatten(1).mean(1) - self.boundary)
        return torch.stack([-score, score], dim=1)


def grey(*values: float) -> tuple[Tensor, Tensor]:
    """Images of one shade each, below the boundary, so of class 0."""
    images = torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return images, torch.zeros(len(values), dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class Brighten:
    """Adds a constant and remembers what it met; tells nothing unless ``step`` is given."""

    by: float
    step: int | None = None
    met: list[Tensor] = field(default_factory=list, repr=False)
    noises: list[Noise] = field(default_factory=list, repr=False)
    provides = frozenset()
    needs_clean = False

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        noise: Any = None,
        clean_logits: Tensor | None = None,
    ) -> Variant:
        self.met.append(images[:, 0, 0, 0].clone())
        self.noises.append(noise)
        model(images)
        trace = None
        if self.step is not None:
            step = torch.full_like(labels, self.step)
            trace = Trace(step=step, forwards=step + 1, backwards=step)
        return Variant(images=(images + self.by).clamp(0, 1), trace=trace)

    @property
    def values(self) -> list[float]:
        """The shades of all images met, in order."""
        return [round(float(value), 4) for value in torch.cat(self.met)] if self.met else []


class WrongView(View):
    """An accelerated view that computes something else than its original."""

    def __init__(self, original: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.__dict__["original"] = original
        self.other = other
        self.choices = Choices(precision="bfloat16")

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.other(images))

    def refresh(self) -> "WrongView":
        return self


def trace_of(variant: Variant) -> Trace:
    assert variant.trace is not None
    return variant.trace


def linear(classes: int) -> nn.Module:
    """For images of 16 values. Small weights, so that cross-entropy is nowhere saturated."""
    return seeded(classes, lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, classes))).eval()
