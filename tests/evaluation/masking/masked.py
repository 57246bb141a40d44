"""Models that only look robust, built around trained ones."""

from typing import Any

import torch
from torch import Tensor, nn

from lrat.types import Batch
from trained import digits


def digits_batch(count: int, first: int = 1400) -> Batch:
    """Held-out digits with their numbers."""
    images, labels = digits()
    rows = torch.arange(first, first + count)
    return Batch(images=images[rows], labels=labels[rows], index=rows)


class _Before(nn.Module):
    """A layer that changes the image before ``model`` sees it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def change(self, images: Tensor) -> Tensor:
        return images

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(self.change(images))
        return logits


class Quantised(_Before):
    """Rounds the image to five grey levels: no gradient comes through."""

    def change(self, images: Tensor) -> Tensor:
        return (images * 4).round() / 4


class Cut(_Before):
    """Leaves autograd, as a detour through numpy does."""

    def change(self, images: Tensor) -> Tensor:
        return images.detach()


class Noisy(_Before):
    """Adds noise from the global random state at every call, eval mode or not."""

    def change(self, images: Tensor) -> Tensor:
        return images + 0.1 * torch.randn_like(images)


class BatchStatistics(_Before):
    """Normalises with the statistics of the batch, as BatchNorm in training mode does."""

    def change(self, images: Tensor) -> Tensor:
        return nn.functional.batch_norm(images, None, None, training=True) / 4 + images.mean()


class Dropping(_Before):
    """Functional dropout, which does not know about eval mode."""

    def change(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(images, 0.2)


class _OneIn16(torch.autograd.Function):
    """The identity, whose gradient is cut down to every 16th pixel."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, first: int) -> Tensor:
        ctx.first = first
        return images.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        kept = torch.zeros_like(gradient).flatten(1)
        kept[:, ctx.first :: 16] = gradient.flatten(1)[:, ctx.first :: 16]
        return kept.view_as(gradient), None


class Slow(_Before):
    """Shows attacks the gradient of other pixels at each call, so that they need many steps."""

    calls = 0

    def change(self, images: Tensor) -> Tensor:
        self.calls += 1
        changed: Tensor = _OneIn16.apply(images, self.calls % 16)
        return changed


class Scaled(nn.Module):
    """The logits of ``model`` times a constant: saturated where it is large."""

    def __init__(self, model: nn.Module, scale: float = 1000) -> None:
        super().__init__()
        self.model = model
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits * self.scale
