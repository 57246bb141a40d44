"""What an attack spent on its images: what it tells, else what was counted."""

import math

import torch
from torch import Tensor

from lrat.attacks.base import Trace
from lrat.hooks import PassCounter

UNTOLD = -1
"""Step and source where an attack does not tell them."""


def spent(trace: Trace | None, counted: PassCounter, images: int) -> dict[str, Tensor | float]:
    """``step``, ``source``, ``forwards`` and ``backwards`` of an attack on so many images.

    Each is what the trace tells [B], else one number for every image: ``UNTOLD``, and the passes
    that were counted, shared out evenly.
    """
    otherwise = {
        "step": UNTOLD,
        "source": UNTOLD,
        "forwards": counted.forwards / images,
        "backwards": counted.backwards / images,
    }
    told = {name: getattr(trace, name, None) for name in otherwise}
    return {name: otherwise[name] if value is None else value for name, value in told.items()}


def whole(value: Tensor | float, like: Tensor) -> Tensor:
    """[B] integers on the device of ``like`` [B]; of one number for all, rounded up."""
    if isinstance(value, Tensor):
        return value.to(like.device)
    return torch.full_like(like, math.ceil(value))
