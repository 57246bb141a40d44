"""Projected gradient descent: FGSM, PGD and CW are settings of it."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from lrat.attacks.base import GradientAttack, Trace, Variant, image_gradient
from lrat.errors import SettingError
from lrat.losses import LossLike, as_loss, cross_entropy
from lrat.randomness import Noise
from lrat.threat import Ball
from lrat.types import Images, Labels, Logits

Start = Literal["uniform", "gaussian", "surface", "none"]
_GAUSSIAN_SCALE = 0.001


def starting_point(start: Start, threat: Ball, images: Tensor, noise: Noise) -> Tensor:
    """The first iterate: uniform in the ball, 0.001 * N(0, 1) (TRADES), on its surface, or x."""
    if start == "uniform":
        return threat.sample(images, noise)
    if start == "surface":
        return threat.surface(images, noise)
    if start == "gaussian":
        drawn = noise.normal(images.shape, "start")
        return threat.project(images + _GAUSSIAN_SCALE * drawn, images)
    return threat.project(images, images)


def check_start(start: str) -> None:
    if start not in get_args(Start):
        raise SettingError(f"start={start!r}: choose one of {', '.join(get_args(Start))}")


def check_steps(steps: int) -> None:
    if steps < 1:
        raise SettingError(f"steps={steps}: an attack takes at least one step")


def every_image(count: int, images: Tensor) -> Tensor:
    """[B]: the same count for each image."""
    return torch.full((len(images),), count, device=images.device)


@dataclass(frozen=True, kw_only=True)
class PGD(GradientAttack):
    """x(t+1) = project(x(t) + step_size * ascend(gradient)): Eq. 3 and Algorithm 2 (Madry 2018).

    ``step_size`` is in the ball's norm, [0, 1] units. ``loss``: any untargeted ``Loss`` or a
    function (logits, labels) -> [B]; with ``losses.cw`` this is CW (Algorithm 3). Returns the last
    iterate. ``steps_survived`` counts the correct iterates among x_0 ... x_{steps - 1} (kappa).
    One forward and one image gradient per step; nothing waits for the device inside the loop.
    """

    threat: Ball
    steps: int
    step_size: float
    loss: LossLike = cross_entropy
    start: Start = "uniform"
    provides: ClassVar[frozenset[str]] = frozenset({"steps_survived"})

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_start(self.start)
        if not math.isfinite(self.step_size) or self.step_size < 0:
            raise SettingError(f"step_size={self.step_size}: must be a number >= 0")
        object.__setattr__(self, "loss", as_loss(self.loss))
        if as_loss(self.loss).targeted:
            raise SettingError(
                f"PGD(loss={self.loss!r}): a targeted loss needs targets; use APGD(targets=...)"
            )

    @property
    def needs_clean(self) -> bool:
        return as_loss(self.loss).needs_clean

    def perturb(
        self, model: nn.Module, images: Images, labels: Labels, noise: Noise, clean: Logits | None
    ) -> Variant:
        loss = as_loss(self.loss).prepare(labels, clean)
        current = starting_point(self.start, self.threat, images, noise)
        inside = self.threat.around(images)
        survived = torch.zeros_like(labels)
        for _ in range(self.steps):
            gradient, _, logits = image_gradient(model, loss, current)
            survived += logits.argmax(1) == labels
            direction = self.threat.ascend(gradient)
            current = inside(current + self.step_size * direction)
        return Variant(
            images=current,
            steps_survived=survived,
            max_steps=self.steps,
            trace=Trace(
                forwards=every_image(self.steps, images),
                backwards=every_image(self.steps, images),
            ),
        )
