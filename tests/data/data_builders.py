"""Small data sets for these tests."""

import torch

from lrat.data import ImageData


def ramp(count: int, *, classes: int = 3, side: int = 4, channels: int = 1) -> ImageData:
    """``count`` different uint8 images, classes in turn, numbered from 100."""
    pixels = torch.arange(count * channels * side * side) % 251
    return ImageData(
        images=pixels.to(torch.uint8).reshape(count, channels, side, side),
        labels=torch.arange(count) % classes,
        index=torch.arange(100, 100 + count),
        class_names=tuple(f"class {label}" for label in range(classes)),
        name="ramp",
    )
