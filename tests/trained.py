"""Two small classifiers, adversarially trained on real digits in seconds: what attacks meet."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from builders import seeded
from lrat.attacks import PGD
from lrat.losses import cross_entropy
from lrat.randomness import Keyed, keys
from lrat.threat import Linf

THREAT = Linf(epsilon=0.2)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """1,797 images [N 1 8 8] in [0, 1] and their labels."""
    bundled = load_digits()
    images = torch.tensor(bundled.images, dtype=torch.float32)[:, None] / 16
    return images, torch.tensor(bundled.target)


def _convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )


def _dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))


@cache
def trained(kind: str = "convolutional") -> nn.Module:
    """A model in eval mode, trained on the first 1,400 digits with PGD at THREAT."""
    model = seeded(0, {"convolutional": _convolutional, "dense": _dense}[kind])
    images, labels = (part[:1400] for part in digits())
    attack = PGD(threat=THREAT, steps=5, step_size=THREAT.epsilon / 4)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=2e-4)
    for epoch in range(12):
        order = Keyed(keys(epoch, torch.arange(1400))).uniform((1400,), "order").argsort()
        for rows in order.split(100):
            noise = Keyed(keys(epoch, rows))
            variant = attack(model, images[rows], labels[rows], noise=noise)
            optimiser.zero_grad()
            cross_entropy(model(variant.images), labels[rows]).mean().backward()
            optimiser.step()
    return model.eval()


def held_out(model: nn.Module, count: int = 300) -> tuple[Tensor, Tensor]:
    """Held-out digits that the model classifies correctly, with their labels."""
    images, labels = (part[1400:] for part in digits())
    with torch.no_grad():
        right = model(images).argmax(1) == labels
    return images[right][:count], labels[right][:count]
