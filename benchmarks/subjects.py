"""The networks that are attacked and trained: real shapes, random weights, known behaviour."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lrat.models import ResNet18, SmallCNN

EPSILON, STEP_SIZE = 8 / 255, 2 / 255
_MARGIN = 8.0
_SPREAD = 0.25


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network in eval mode with the images and labels [B] of one batch."""

    name: str
    model: nn.Module
    images: Tensor
    labels: Tensor
    rounds: int

    @property
    def title(self) -> str:
        return f"{self.name}, batch {len(self.images)}"


def steadfast(model: ResNet18 | SmallCNN, images: Tensor) -> nn.Module:
    """A random network that no attack here fools, so that every attack does all its steps.

    BatchNorm gets the statistics of the images; logits spread by 0.25 over the images, and the bias
    of class 0 puts it 8 above the others, more than the attacks move. Attacks that let fooled
    images leave would else do less than those that do not: a difference between networks, not
    between implementations.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        model.train()(images)
        model.eval()
        model.head.bias.zero_()
        model.head.weight.mul_(_SPREAD / model(images).std())
        model.head.bias[0] = _MARGIN
    for norm in norms:
        norm.momentum = 0.1
    return model


def subject(
    name: str, model: ResNet18 | SmallCNN, shape: tuple[int, ...], batch: int, rounds: int
) -> Subject:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, *shape, generator=generator)
    labels = torch.zeros(batch, dtype=torch.long)
    return Subject(
        name=name,
        model=steadfast(model, images),
        images=images,
        labels=labels,
        rounds=rounds,
    )


def subjects(*, quick: bool) -> list[Subject]:
    """The three networks of the comparison; tiny ones if ``quick``."""
    torch.manual_seed(0)
    if quick:
        return [
            subject("resnet-18, width 2", ResNet18(width=2), (3, 8, 8), 3, 2),
            subject("small-cnn, 28x28", SmallCNN(size=28, width=2), (1, 28, 28), 3, 2),
        ]
    return [
        subject("resnet-18, width 16", ResNet18(width=16), (3, 32, 32), 64, 5),
        subject("small-cnn, 28x28", SmallCNN(size=28), (1, 28, 28), 128, 15),
        subject("resnet-18, width 64", ResNet18(width=64), (3, 32, 32), 4, 5),
    ]
