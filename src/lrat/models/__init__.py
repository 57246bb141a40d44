"""Classifiers from images [B C H W] in [0, 1] to logits [B K]."""

from lrat.models.choice import PickOutput
from lrat.models.resnet import ResNet18
from lrat.models.small_cnn import SmallCNN
from lrat.models.wrappers import Normalize

__all__ = ["Normalize", "PickOutput", "ResNet18", "SmallCNN"]
