"""The smallest step in a norm, inside the box [0, 1], onto a hyperplane: what FAB moves by.

For one pixel i the cheapest way towards the hyperplane is against the sign of w_i, as far as the
box leaves room_i. In L_inf all pixels go the same way lambda, in L2 lambda * |w_i|, until they meet
the box, so the hyperplane is reached where

    f(lambda) = sum_i v_i min(lambda, r_i) = |<w, x> - b|,

with v_i = |w_i|, r_i = room_i in L_inf and v_i = w_i^2, r_i = room_i / |w_i| in L2. f is concave,
increasing and piecewise linear, so Newton's method from 0 climbs to the solution monotonically and
ends there exactly, usually after few steps and without sorting the pixels.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from lrat.errors import SettingError
from lrat.threat import L2, Ball, Linf

NEWTON_STEPS = 8
_TINY = 1e-30
"""Below every slope that occurs, and large enough that an offset divided by it stays finite."""

Steps: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(points [B P D] in [0, 1], normal [B D], offset [B P]) -> (steps [B P D], lengths [B P])``."""


def steps_onto(threat: Ball) -> Steps:
    """How to step onto a hyperplane {z : <w, z> = b} by the least norm of this ball.

    ``offset`` is <w, x> - b of each of the P points of an image, which share its ``normal`` w; the
    results are the steps d, with x + d in the box, and their norms. A hyperplane that the box does
    not meet is approached as far as it goes; a step is 0 where the offset or the normal is 0.
    SettingError for balls other than Linf and L2.
    """
    if isinstance(threat, Linf):
        return _steps_linf
    if isinstance(threat, L2):
        return _steps_l2
    raise SettingError(f"{threat!r}: steps onto a hyperplane are known for Linf and L2 alone")


def _steps_linf(points: Tensor, normal: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    direction, room = _towards(points, normal, offset)
    pace = _solve(normal.abs()[:, None], room, offset.abs())
    steps = direction * torch.minimum(room, pace[..., None])
    return steps, steps.abs().amax(2)


def _steps_l2(points: Tensor, normal: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    direction, room = _towards(points, normal, offset)
    size = normal.abs()[:, None]
    limit = room / size.clamp(min=_TINY)
    pace = _solve(size.square(), limit, offset.abs())
    steps = direction * torch.minimum(room, pace[..., None] * size)
    return steps, torch.linalg.vector_norm(steps, dim=2)


def _towards(points: Tensor, normal: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """The sign of each pixel's step and how far the box lets it go, both [B P D]."""
    direction = -offset.sign()[..., None] * normal.sign()[:, None]
    return direction, torch.where(direction > 0, 1 - points, points)


def _solve(weights: Tensor, limits: Tensor, target: Tensor) -> Tensor:
    """lambda [B P] with sum_i v_i min(lambda, r_i) = target, or all r_i behind it if there is none.

    ``weights`` v [B 1 D], ``limits`` r [B P D], ``target`` [B P], none negative. A tangent of a
    concave function lies above it, so Newton's steps never pass the solution from the left; the
    maximum keeps it so under rounding.
    """
    most = weights * limits
    pace = torch.zeros_like(target)
    for _ in range(NEWTON_STEPS):
        free = limits > pace[..., None]
        slope = (weights * free).sum(2)
        used = (most * ~free).sum(2)
        pace = torch.maximum(pace, (target - used) / slope.clamp(min=_TINY))
    return pace
