"""Small things that tests build."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - the community's name
from torch import Tensor, nn

from lrat.randomness import Keyed, keys

Built = TypeVar("Built")


def seeded(seed: int, build: Callable[[], Built]) -> Built:
    """What ``build`` makes under this seed, with the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def random_images(count: int, channels: int, side: int, *, seed: int = 0) -> Tensor:
    """Images [count channels side side], uniform in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, side, side, generator=generator)


def keyed(count: int, seed: int = 0) -> Keyed:
    """The noise of images 0, 1, ..., ``count`` - 1."""
    return Keyed(keys(seed, torch.arange(count)))


def clustered(count: int) -> tuple[Tensor, Tensor]:
    """Images [count 3 8 8] around the centres of four classes, and their labels."""
    labels, noise = torch.arange(count) % 4, torch.Generator().manual_seed(0)
    centres = torch.rand(4, 3, 8, 8, generator=noise)
    return 0.6 * centres[labels] + 0.4 * torch.rand(count, 3, 8, 8, generator=noise), labels


def saved_vit(folder: Path, *, classes: int, seed: int = 0, **settings: Any) -> Path:
    """A small ViT for images [B 3 32 32] in ``folder``, as transformers saves it, with its
    preprocessing; ``settings`` of its configuration."""
    import transformers

    sizes = {"hidden_size": 16, "intermediate_size": 16, "image_size": 32, "patch_size": 8}
    config = transformers.ViTConfig(
        num_hidden_layers=1, num_attention_heads=2, num_labels=classes, **sizes, **settings
    )
    seeded(seed, lambda: transformers.ViTForImageClassification(config)).save_pretrained(folder)
    stated = {"do_normalize": True, "image_mean": [0.25] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    return folder


class Net(nn.Module):
    """A convolution and a linear layer, for ``clustered`` images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(384, 4)

    def features(self, images: Tensor) -> Tensor:
        return F.relu(self.layer(images)).flatten(1)

    def forward(self, images: Tensor) -> Any:
        return self.head(self.features(images))
