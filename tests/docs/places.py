"""What a page's folder has and what its Python knows: tiny models and data, made once."""

import shutil
from collections.abc import Callable, Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from builders import seeded
from docs.commands import run
from experiments.commands import lrat
from lrat.models import SmallCNN
from lrat.threat import Linf
from trained import digits

TRAINED, TESTED = 60, 20


def furnish(folder: Path, name: str, runs: Path) -> None:
    """Put ``name`` into ``folder``: ``runs/X`` (trained and evaluated), ``X.npz``, ``X.py``, ..."""
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.parent.name == "runs":
        shutil.copytree(a_run(runs), place)
        return
    if name == "classifier":
        shutil.copytree(a_run(runs), place)
        return
    WRITERS[place.suffix](place)


@cache
def a_run(runs: Path) -> Path:
    """A run on digits, which is right about clean images and withstands little, evaluated."""
    place = runs / "tiny"
    settings = {"data.train_limit": 300, "training.batch_size": 32, "model.width": 4}
    sets = chain.from_iterable(("--set", f"{name}={value}") for name, value in settings.items())
    train = lrat("train", "natural", "--data", "digits", "--epochs", 3, "--out", place, *sets)
    assert train.status == 0, train.err
    run(["lrat", "evaluate", str(place)])
    return place


def known(name: str) -> Any:
    """The value that a page's Python has under this name."""
    return NAMES[name]()


def _npz(place: Path) -> None:
    images, labels = (part.numpy() for part in digits())
    kept = (images * 255).round().astype(np.uint8)
    last = TRAINED + TESTED
    np.savez(
        place,
        train_images=kept[:TRAINED],
        train_labels=labels[:TRAINED],
        test_images=kept[TRAINED:last],
        test_labels=labels[TRAINED:last],
    )


def _module(place: Path) -> None:
    place.write_text(
        "from lrat.models import SmallCNN\n\n\n"
        "def make_model():\n    return SmallCNN(size=8, width=4)\n"
    )


def _weights(place: Path) -> None:
    save_file(_model().state_dict(), place)


def _model() -> SmallCNN:
    return seeded(0, lambda: SmallCNN(size=8, width=4))


def _photos(place: Path) -> None:
    draw = np.random.default_rng(0)
    for label, name in enumerate(("bird", "cat")):
        (place / name).mkdir(parents=True)
        for number in range(40):
            pixels = draw.integers(0, 90, (34, 40, 3)) + 90 * label
            Image.fromarray(pixels.astype(np.uint8)).save(place / name / f"{number}.png")


def _company(place: Path) -> None:
    import timm

    network = seeded(0, lambda: timm.create_model("test_resnet", num_classes=2))
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 9, "state_dict": state}, place)


WRITERS: Mapping[str, Callable[[Path], None]] = {
    "": _photos,
    ".npz": _npz,
    ".pt": _company,
    ".py": _module,
    ".safetensors": _weights,
}
NAMES: Mapping[str, Callable[[], Any]] = {
    "model": _model,
    "other_model": _model,
    "images": lambda: digits()[0][:TRAINED],
    "labels": lambda: digits()[1][:TRAINED],
    "test_images": lambda: digits()[0][TRAINED : TRAINED + TESTED],
    "test_labels": lambda: digits()[1][TRAINED : TRAINED + TESTED],
    "threat": lambda: Linf(epsilon=0.5),
}
