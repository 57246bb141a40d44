"""Small things that tests build."""

from collections.abc import Callable
from typing import TypeVar

import torch

Built = TypeVar("Built")


def seeded(seed: int, build: Callable[[], Built]) -> Built:
    """What ``build`` makes under this seed, with the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
