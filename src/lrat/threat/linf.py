"""The L_inf ball."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lrat.randomness import Noise
from lrat.threat.base import _TINY, NormBall, Projection, per_image
from lrat.threat.norms import LINF, Norm
from lrat.types import Images, PerExample


@dataclass(frozen=True)
class _Clip:
    """The projection into the intersection of an L_inf ball and [0, 1], which is a box."""

    lower: Tensor
    upper: Tensor

    def __call__(self, images: Images) -> Images:
        return images.clamp(self.lower, self.upper)

    def select(self, rows: Tensor) -> "_Clip":
        return _Clip(self.lower[rows], self.upper[rows])


@dataclass(frozen=True, kw_only=True)
class Linf(NormBall):
    """{x : max |x - center| <= epsilon} with x in [0, 1]. Refuses epsilon > 1."""

    norm: ClassVar[Norm] = LINF
    epsilon: float
    tolerance: float = 1e-6

    def project(self, images: Images, center: Images) -> Images:
        """argmin_z |z - x|_2 over ball and box: both are boxes, so clipping is exact."""
        return self.around(center)(images)

    def around(self, center: Images) -> Projection:
        """Computes both bounds once, so that a step costs one clip."""
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
