"""Classifiers from images [B C H W] in [0, 1] to logits [B K]."""

from lrat.models.resnet import ResNet18
from lrat.models.small_cnn import SmallCNN
from lrat.models.wrappers import Normalize, PickOutput

__all__ = ["Normalize", "PickOutput", "ResNet18", "SmallCNN"]
