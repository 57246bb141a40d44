"""A linear problem whose robust accuracy is known in closed form, and small attacks."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from builders import seeded
from lrat.threat import Linf
from lrat.types import Batch

THREAT = Linf(epsilon=16 / 255)
SHAPE = (1, 3, 3)


def linear(classes: int = 2, seed: int = 0) -> nn.Module:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(9, classes))

    return seeded(seed, build).eval()


def images_and_labels(count: int = 40, classes: int = 2) -> tuple[Tensor, Tensor]:
    """Images far enough from 0 and 1 that the box never binds; labels mostly the model's."""
    generator = torch.Generator().manual_seed(7)
    images = 0.1 + 0.8 * torch.rand((count, *SHAPE), generator=generator)
    with torch.no_grad():
        labels = linear(classes)(images).argmax(1)
    wrong = torch.rand(count, generator=generator) < 0.2
    return images, torch.where(wrong, (labels + 1) % classes, labels)


def batches_of(images: Tensor, labels: Tensor, size: int = 16, first: int = 0) -> Iterator[Batch]:
    index = torch.arange(first, first + len(images))
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        yield Batch(images=images[rows], labels=labels[rows], index=index[rows])


def robust_margin(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """The margin of a linear binary classifier after the best L_inf attack: it falls by
    epsilon * |w_y - w_t|_1."""
    layer = model[1]
    with torch.no_grad():
        logits = model(images)
        rows = torch.arange(len(labels))
        margin = logits[rows, labels] - logits[rows, 1 - labels]
        fall = epsilon * (layer.weight[0] - layer.weight[1]).abs().sum()
    return margin - fall


class Calls:
    """A plain attack that counts: one signed step of size epsilon away from the label."""

    def __init__(self, epsilon: float = THREAT.epsilon) -> None:
        self.epsilon = epsilon
        self.images = 0

    def __repr__(self) -> str:
        return f"Calls(epsilon={self.epsilon})"

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        self.images += len(images)
        images = images.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(images), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
        return images.detach() + self.epsilon * gradient.sign()
