"""The smallest step in a norm, inside the box [0, 1], onto a hyperplane: what FAB moves by.

For one pixel i the cheapest way towards the hyperplane is against the sign of w_i, as far as the
box leaves room_i. In L_inf all pixels go the same way lambda, in L2 lambda * |w_i|, until they meet
the box, so the hyperplane is reached where

    f(lambda) = sum_i v_i min(lambda, r_i) = |<w, x> - b|,

with v_i = |w_i|, r_i = room_i in L_inf and v_i = w_i^2, r_i = room_i / |w_i| in L2. f is concave,
increasing and piecewise linear, so Newton's method from 0 climbs to the solution monotonically and
ends there exactly, after few steps and without sorting the pixels. Their number is fixed, so that
nothing waits for the device.

Measured on 57,000 hyperplanes of targeted FAB in L_inf and 23,000 in L2 (two classifiers of digits,
three of Fashion-MNIST, adversarially trained): 2.2 steps suffice on average, 5 always in L_inf; in
L2 the 10 taken here meet every one to rounding. Where more would be needed the step ends short of
the hyperplane, and an attack's next one makes up for it: with weights and room drawn over six
orders of magnitude and 99 % of the room used up, by .8 % of the way in L_inf and .3 % in L2.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from lrat.errors import SettingError
from lrat.threat import L2, Ball, Linf

_NEWTON_STEPS_LINF = 6
_NEWTON_STEPS_L2 = 10
_TINY = 1e-30
"""Below every slope that occurs; its inverse and an offset divided by it stay finite."""

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
    pace = _solve(normal.abs()[:, None], room, offset.abs(), _NEWTON_STEPS_LINF)
    steps = torch.minimum(room, pace).mul_(direction)
    return steps, steps.abs().amax(2)


def _steps_l2(points: Tensor, normal: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    direction, room = _towards(points, normal, offset)
    size = normal.abs()[:, None]
    limits = room / size.clamp(min=_TINY)
    pace = _solve(size.square(), limits, offset.abs(), _NEWTON_STEPS_L2)
    steps = torch.minimum(room, pace * size).mul_(direction)
    return steps, torch.linalg.vector_norm(steps, dim=2)


def _towards(points: Tensor, normal: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """The sign of each pixel's step and how far the box lets it go, both [B P D]."""
    direction = -offset.sign()[..., None] * normal.sign()[:, None]
    # |1 - x| where the step is upwards, else |0 - x|. Comparisons that write numbers are an order
    # of magnitude faster on processors than those that make masks for torch.where.
    room = torch.gt(direction, 0, out=torch.empty_like(direction)).sub_(points).abs_()
    return direction, room


def _solve(weights: Tensor, limits: Tensor, target: Tensor, steps: int) -> Tensor:
    """lambda [B P 1] with sum_i v_i min(lambda, r_i) = target; where there is none, above all r_i.

    ``weights`` v [B 1 D], ``limits`` r [B P D] and ``target`` [B P], none negative. A tangent of a
    concave function lies above it, so no step passes the solution; what is left to the target can
    be negative by rounding alone.
    """
    target = target[..., None]
    pace = torch.zeros_like(target)
    buffer = torch.empty_like(limits)
    for _ in range(steps):
        slope = torch.gt(limits, pace, out=buffer).mul_(weights).sum(2, keepdim=True)
        reached = torch.minimum(limits, pace, out=buffer).mul_(weights).sum(2, keepdim=True)
        pace = torch.addcdiv(pace, (target - reached).clamp_(min=0), slope.clamp_(min=_TINY))
    return pace.clamp_(max=1 / _TINY)
