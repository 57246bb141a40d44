"""What users bring: arrays in a file, a model in a file, its weights."""

from pathlib import Path
from typing import Any

import numpy as np

MODEL = '''
import torch
from torch import nn


class Own(nn.Module):
    def __init__(self, pixels=90, classes=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 8), nn.Tanh())
        self.head = nn.Linear(8, classes)

    def forward(self, images):
        return self.head(self.layers(images))


class NotANumber(Own):
    """Breaks down in its seventh forward in train mode."""

    calls = 0

    def forward(self, images):
        self.calls += self.training
        logits = super().forward(images)
        return logits * float("nan") if self.calls >= 7 else logits


class Blind(Own):
    """Its logits do not depend on its images differentiably."""

    def forward(self, images):
        return super().forward(images.detach())


class Picture(nn.Module):
    """Gives pictures, not logits."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 10, 1)

    def forward(self, images):
        return self.layer(images)


def make():
    return Own()


def digits():
    return Own(pixels=64, classes=10)


def narrow():
    return Own(pixels=64)


def normed():
    return nn.Sequential(Own(pixels=64, classes=10), nn.BatchNorm1d(10))


def breaking():
    return NotANumber(pixels=64, classes=10)


def blind():
    return Blind(pixels=64, classes=10)


def picture():
    return Picture()


def frozen():
    return Own(pixels=64, classes=10).requires_grad_(False)


def failing():
    raise OSError("the disk\\nis gone")


def needing(width):
    return Own()


number = 3
'''


def write_model(path: str | Path) -> None:
    Path(path).write_text(MODEL)


def arrays(count: int = 60) -> dict[str, Any]:
    """Three kinds of coloured pictures, 6 by 5 pixels, that a small model can tell apart."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = 0.3 * random.random((count, 3, 6, 5))
    images[np.arange(count), labels] += 0.6
    return {"images": images.astype(np.float32), "labels": labels}


def write_npz(path: str | Path, **changed: Any) -> None:
    """Training and test images; ``changed`` replaces arrays, None leaves one out."""
    train, test = arrays(120), arrays(45)
    content = {
        "train_images": train["images"],
        "train_labels": train["labels"],
        "test_images": test["images"],
        "test_labels": test["labels"],
        "class_names": np.array(["circle", "square", "star"]),
        **changed,
    }
    np.savez(path, **{name: value for name, value in content.items() if value is not None})
