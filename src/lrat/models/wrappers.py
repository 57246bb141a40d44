"""Per-channel normalisation as a layer, so that every attack sees images in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lrat.checks import number
from lrat.errors import SettingError
from lrat.models.checks import check_images
from lrat.text import shown
from lrat.types import Images


class Normalize(nn.Module):
    """(images - mean) / std per channel: the first layer of ``Sequential(Normalize(...), net)``.

    ``mean`` and ``std`` are in [0, 1] pixel units, one number per channel. They are saved with the
    weights, so that a weights file cannot be evaluated under another normalisation unnoticed.
    Raises SettingError unless the lengths agree, all numbers are finite and every std is > 0.
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
