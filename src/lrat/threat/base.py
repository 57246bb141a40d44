"""Threat models: balls around a clean image, always intersected with the box [0, 1].

Epsilon is in [0, 1] pixel units (8/255, never 8). A ball knows four things: how to project into
itself, how to draw a start, which direction ascends a loss fastest, and by how much an image lies
outside. Attacks are written against these alone, so another norm is another class here.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from lrat.checks import Rule, check_fields, threat_parts, threat_text
from lrat.errors import SettingError
from lrat.randomness import Noise
from lrat.types import Images, PerExample

_TINY = 1e-12


@runtime_checkable
class Region(Protocol):
    """Where an adversarial image may lie."""

    @property
    def tolerance(self) -> float:
        """The excess that float32 arithmetic explains; more is a violation."""
        ...

    def violation(self, images: Images, center: Images) -> PerExample:
        """[B]: how far each image lies outside the region or the box; 0 inside."""
        ...


@runtime_checkable
class Ball(Region, Protocol):
    """A region around the clean image (``center``) in which gradient attacks move."""

    @property
    def epsilon(self) -> float:
        """The radius in the ball's norm, for pixels in [0, 1]."""
        ...

    def distance(self, images: Images, center: Images) -> PerExample:
        """[B]: the norm of the perturbation."""
        ...

    def project(self, images: Images, center: Images) -> Images:
        """Into ball and box. ``center`` lies in the box."""
        ...

    def around(self, center: Images) -> "Projection":
        """``project`` for one center, for loops that call it again and again."""
        ...

    def sample(self, center: Images, noise: Noise) -> Images:
        """A start drawn uniformly from the ball, then clipped to the box."""
        ...

    def surface(self, center: Images, noise: Noise) -> Images:
        """A start at distance epsilon (before the box clips it), as AutoAttack's."""
        ...

    def ascend(self, gradient: Images) -> Images:
        """The direction of norm 1 (in this ball's norm) along which the loss grows fastest."""
        ...


@runtime_checkable
class Projection(Protocol):
    """The projection into a ball around fixed centers."""

    def __call__(self, images: Images) -> Images:
        """New images, inside ball and box."""
        ...

    def select(self, rows: Tensor) -> "Projection":
        """The projection of these rows (integer or boolean [B])."""
        ...


@dataclass(frozen=True)
class _Clip:
    """The box of pixels that an L_inf ball and [0, 1] have in common."""

    lower: Tensor
    upper: Tensor

    def __call__(self, images: Images) -> Images:
        return images.clamp(self.lower, self.upper)

    def select(self, rows: Tensor) -> "_Clip":
        return _Clip(self.lower[rows], self.upper[rows])


@dataclass(frozen=True)
class _Around:
    """A ball's ``project`` with its center filled in."""

    ball: Ball
    center: Tensor

    def __call__(self, images: Images) -> Images:
        return self.ball.project(images, self.center)

    def select(self, rows: Tensor) -> "_Around":
        return _Around(self.ball, self.center[rows])


def _check(ball: Any, largest: float) -> None:
    check_fields(ball)
    if ball.epsilon > largest:
        raise SettingError(
            f"{type(ball).__name__}(epsilon={ball.epsilon:g}): epsilon is in [0, 1] pixel units; "
            f"{ball.epsilon:g}/255 was probably meant"
        )


def _box_excess(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    return torch.maximum(-flat.amin(1), flat.amax(1) - 1).clamp(min=0)


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """[B] as [B 1 ...], with as many dimensions as the images ``like``."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


@dataclass(frozen=True, kw_only=True)
class Linf:
    """{x : max |x - center| <= epsilon} with x in [0, 1]. Refuses epsilon > 1."""

    epsilon: float
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        _check(self, largest=1)

    @property
    def text(self) -> str:
        """``linf:8/255``, as ``parse`` reads it."""
        return threat_text("linf", self.epsilon)

    def project(self, images: Images, center: Images) -> Images:
        """argmin_z |z - x|_2 over ball and box: both are boxes, so clipping is exact."""
        return self.around(center)(images)

    def around(self, center: Images) -> Projection:
        """Both bounds once: a step then costs one clip."""
        return _Clip((center - self.epsilon).clamp(0, 1), (center + self.epsilon).clamp(0, 1))

    def sample(self, center: Images, noise: Noise) -> Images:
        drawn = noise.uniform(center.shape, "start").mul_(2).sub_(1)
        return (center + self.epsilon * drawn).clamp(0, 1)

    def surface(self, center: Images, noise: Noise) -> Images:
        drawn = noise.uniform(center.shape, "start").mul_(2).sub_(1)
        largest = drawn.abs().flatten(1).amax(1)
        return (center + self.epsilon * (drawn / (per_image(largest, drawn) + _TINY))).clamp(0, 1)

    def ascend(self, gradient: Images) -> Images:
        """argmax_{|d|_inf <= 1} <d, g> = sign(g)."""
        return gradient.sign()

    def distance(self, images: Images, center: Images) -> PerExample:
        return (images - center).abs().flatten(1).amax(1)

    def violation(self, images: Images, center: Images) -> PerExample:
        excess = self.distance(images, center) - self.epsilon
        return torch.maximum(excess.clamp(min=0), _box_excess(images))


@dataclass(frozen=True, kw_only=True)
class L2:
    """{x : |x - center|_2 <= epsilon} with x in [0, 1]. Refuses epsilon > 30."""

    epsilon: float
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        _check(self, largest=30)

    @property
    def text(self) -> str:
        """``l2:0.5``, as ``parse`` reads it."""
        return threat_text("l2", self.epsilon)

    def project(self, images: Images, center: Images) -> Images:
        """argmin over the ball (scale the perturbation), then argmin over the box (clip).

        The clip cannot leave the ball again, since the center lies in the box. Where both
        constraints bind the result is feasible, but not the nearest point of the intersection:
        this is the projection of AutoAttack and of every common PGD, kept for parity.
        """
        offset = images - center
        norm = per_image(torch.linalg.vector_norm(offset.flatten(1), dim=1), offset)
        return (center + offset / (norm + _TINY) * norm.clamp(max=self.epsilon)).clamp(0, 1)

    def around(self, center: Images) -> Projection:
        return _Around(self, center)

    def sample(self, center: Images, noise: Noise) -> Images:
        direction = self.ascend(noise.normal(center.shape, "start"))
        dimension = center[0].numel()
        radius = noise.uniform((len(center), 1), "radius") ** (1 / dimension)
        return (center + self.epsilon * per_image(radius, center) * direction).clamp(0, 1)

    def surface(self, center: Images, noise: Noise) -> Images:
        direction = self.ascend(noise.normal(center.shape, "start"))
        return (center + self.epsilon * direction).clamp(0, 1)

    def ascend(self, gradient: Images) -> Images:
        """argmax_{|d|_2 <= 1} <d, g> = g / |g|_2; zero where the gradient is zero."""
        norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        return gradient / (per_image(norm, gradient) + _TINY)

    def distance(self, images: Images, center: Images) -> PerExample:
        norm: Tensor = torch.linalg.vector_norm((images - center).flatten(1), dim=1)
        return norm

    def violation(self, images: Images, center: Images) -> PerExample:
        excess = self.distance(images, center) - self.epsilon
        return torch.maximum(excess.clamp(min=0), _box_excess(images))


def parse(text: str) -> Ball:
    """``linf:8/255`` or ``l2:0.5`` as a ball. Raises SettingError."""
    norm, epsilon = threat_parts(text)
    return Linf(epsilon=epsilon) if norm == "linf" else L2(epsilon=epsilon)


def _region(threat: Any) -> Region:
    region = parse(threat) if isinstance(threat, str) else threat
    if not isinstance(region, Region) or isinstance(region, type):
        raise TypeError
    return region


def as_ball(threat: Any) -> Ball:
    """A ball as it is, or the one that a text as ``linf:8/255`` names. Raises SettingError."""
    ball: Ball = BALL("threat", threat)
    return ball


def _ball(threat: Any) -> Ball:
    region = _region(threat)
    if not isinstance(region, Ball):
        raise TypeError
    return region


if TYPE_CHECKING:
    BallLike: TypeAlias = Ball
    RegionLike: TypeAlias = Region
else:
    BallLike, RegionLike = Ball | str, Region | str
"""The field of an object that takes a ball or its text and holds the ball."""

BALL = Rule(_ball, "a ball, Linf(epsilon=8/255), or its text", "'linf:8/255'")
REGION = Rule(_region, "a region, Linf(epsilon=8/255), or its text", "'linf:8/255'")
"""The rules of a ``threat``, for ``lrat.checks``."""
