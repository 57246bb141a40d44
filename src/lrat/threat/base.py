"""Threat models: balls around a clean image, always intersected with the box [0, 1].

Epsilon is in [0, 1] pixel units (8/255, never 8). A ball defines four operations: the projection
into it, the drawing of a start, the direction of steepest ascent, and by how much an image lies
outside. Attacks use these alone, so another norm is another class.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from lrat.checks import check_fields
from lrat.errors import SettingError
from lrat.randomness import Noise
from lrat.threat.norms import Norm
from lrat.types import Images, PerExample

_TINY = 1e-12


@runtime_checkable
class Region(Protocol):
    """The set in which an adversarial image may lie."""

    @property
    def tolerance(self) -> float:
        """The largest excess that float32 arithmetic explains; more is a violation."""
        ...

    def violation(self, images: Images, center: Images) -> PerExample:
        """[B]: how far each image lies outside the region or the box; 0 inside."""
        ...


@runtime_checkable
class Ball(Region, Protocol):
    """A region around the clean image (``center``) in which gradient attacks move."""

    @property
    def norm(self) -> Norm:
        """The row of ``threat.norms``, with the spellings of the norm."""
        ...

    @property
    def text(self) -> str:
        """``linf:8/255``, as ``parse`` reads it."""
        ...

    @property
    def epsilon(self) -> float:
        """The radius in the ball's norm, for pixels in [0, 1]."""
        ...

    def distance(self, images: Images, center: Images) -> PerExample:
        """[B]: the norm of the perturbation."""
        ...

    def project(self, images: Images, center: Images) -> Images:
        """The images, projected into ball and box. ``center`` lies in the box."""
        ...

    def around(self, center: Images) -> "Projection":
        """``project`` with a fixed center, for the loops of attacks."""
        ...

    def sample(self, center: Images, noise: Noise) -> Images:
        """A start drawn uniformly from the ball, then clipped to the box."""
        ...

    def surface(self, center: Images, noise: Noise) -> Images:
        """A start at distance epsilon, before it is clipped to the box, as in AutoAttack."""
        ...

    def ascend(self, gradient: Images) -> Images:
        """The direction of norm 1 (in this ball's norm) along which the loss grows fastest."""
        ...


@runtime_checkable
class Projection(Protocol):
    """The projection into a ball around fixed centers."""

    def __call__(self, images: Images) -> Images:
        """The images, projected into ball and box."""
        ...

    def select(self, rows: Tensor) -> "Projection":
        """The projection of these rows (integer or boolean [B])."""
        ...


class NormBall(ABC):
    """The common members of the balls of this package: checks, spelling and violation."""

    norm: ClassVar[Norm]
    epsilon: float

    def __post_init__(self) -> None:
        check_fields(self)
        if self.epsilon > self.norm.largest:
            raise SettingError(
                f"{type(self).__name__}(epsilon={self.epsilon:g}): epsilon is in [0, 1] pixel "
                f"units; {self.epsilon:g}/255 was probably meant"
            )

    @property
    def text(self) -> str:
        """``linf:8/255``, as ``parse`` reads it."""
        return self.norm.threat(self.epsilon)

    @abstractmethod
    def distance(self, images: Images, center: Images) -> PerExample: ...

    @final
    def violation(self, images: Images, center: Images) -> PerExample:
        excess = (self.distance(images, center) - self.epsilon).clamp(min=0)
        flat = images.flatten(1)
        return torch.maximum(excess, torch.maximum(-flat.amin(1), flat.amax(1) - 1).clamp(min=0))


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """``values`` [B] as [B 1 ...], with as many dimensions as the images ``like``."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
