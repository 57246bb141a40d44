"""Three small classifiers, adversarially trained on real digits: what attacks meet."""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from builders import seeded
from lrat.threat import Linf

THREAT = Linf(epsilon=0.2)
WEIGHTS = Path(__file__).parent / "weights"


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


NETWORKS = {"convolutional": _convolutional, "dense": _dense, "gairat": _convolutional}


@cache
def trained(kind: str = "convolutional") -> nn.Module:
    """A model in eval mode, trained on the first 1,400 digits at THREAT: SAT, or GAIRAT.

    Its weights are stored (``weights/renew.py`` trains them).
    """
    model = seeded(0, NETWORKS[kind])
    model.load_state_dict(load_file(WEIGHTS / f"{kind}.safetensors"))
    return model.eval()


def held_out(model: nn.Module, count: int = 300) -> tuple[Tensor, Tensor]:
    """Held-out digits that the model classifies correctly, with their labels."""
    images, labels = (part[1400:] for part in digits())
    with torch.no_grad():
        right = model(images).argmax(1) == labels
    return images[right][:count], labels[right][:count]
