"""Classifiers from images [B C H W] in [0, 1] to logits [B K]."""

from lrat.models.libraries import from_hf, from_timm, from_torchvision, resnet_50, vit_tiny
from lrat.models.preactivation import (
    PreActResNet,
    preact_resnet_18,
    wide_resnet_28,
    wide_resnet_34,
)
from lrat.models.resnet import ResNet18
from lrat.models.small_cnn import SmallCNN
from lrat.models.wrappers import (
    NORMALIZATIONS,
    Normalize,
    Normalized,
    PickOutput,
    with_normalization,
)

__all__ = [
    "NORMALIZATIONS",
    "Normalize",
    "Normalized",
    "PickOutput",
    "PreActResNet",
    "ResNet18",
    "SmallCNN",
    "from_hf",
    "from_timm",
    "from_torchvision",
    "preact_resnet_18",
    "resnet_50",
    "vit_tiny",
    "wide_resnet_28",
    "wide_resnet_34",
    "with_normalization",
]
