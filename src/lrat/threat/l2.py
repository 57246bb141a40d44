"""The L2 ball."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lrat.randomness import Noise
from lrat.threat import norms
from lrat.threat.base import _TINY, Ball, NormBall, Projection, per_image
from lrat.types import Images, PerExample


@dataclass(frozen=True)
class _Around:
    """A ball's ``project`` with a fixed center."""

    ball: Ball
    center: Tensor

    def __call__(self, images: Images) -> Images:
        return self.ball.project(images, self.center)

    def select(self, rows: Tensor) -> "_Around":
        return _Around(self.ball, self.center[rows])


@dataclass(frozen=True, kw_only=True)
class L2(NormBall):
    """{x : |x - center|_2 <= epsilon} with x in [0, 1]. Refuses epsilon > 30."""

    norm: ClassVar[norms.Norm] = norms.L2
    epsilon: float
    tolerance: float = 1e-5

    def project(self, images: Images, center: Images) -> Images:
        """argmin over the ball (scale the perturbation), then argmin over the box (clip).

        The clipped point stays in the ball, since the center lies in the box. Where both
        constraints bind, the result is feasible, but not the nearest point of the intersection:
        this is the projection of AutoAttack and of every common PGD.
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
