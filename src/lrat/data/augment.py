"""Augmentation as tensor operations on a batch, drawn from the noise of each image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - the community's name
from torch import Tensor

from lrat.checks import check_fields
from lrat.randomness import Noise

Augmentation: TypeAlias = Callable[[Tensor, Noise], Tensor]
"""``(images [B C H W] in [0, 1], noise of the batch) -> images`` of the same shape and range."""


@dataclass(frozen=True, kw_only=True)
class CropAndFlip:
    """Shift each image by up to ``padding`` pixels, filled with zeros; mirror half of the images.

    This is the usual augmentation for CIFAR (random crop after zero padding, horizontal flip) on a
    whole batch. The result for an image depends on its key alone. Raises SettingError for padding
    below 0.
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """[B C H W] of any type -> the same shape and type."""
        count, channels, height, width = images.shape
        device = images.device
        offset = noise.integers(2 * self.padding + 1, (count, 2), "crop")
        rows = torch.arange(height, device=device) + offset[:, :1]
        columns = torch.arange(width, device=device).expand(count, width)
        if self.flip:
            mirrored = noise.integers(2, (count, 1), "flip").bool()
            columns = torch.where(mirrored, columns.flip(1), columns)
        columns = columns + offset[:, 1:]
        image = torch.arange(count, device=device)[:, None, None, None]
        channel = torch.arange(channels, device=device)[:, None, None]
        padded = F.pad(images, [self.padding] * 4)
        return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
