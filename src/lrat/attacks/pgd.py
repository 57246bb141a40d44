"""Projected gradient descent: FGSM, PGD and CW are settings of it."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from lrat.attacks.base import GradientAttack, Rows, Trace, Variant
from lrat.attacks.gradient import image_gradient
from lrat.checks import check_fields, one_of
from lrat.losses import LossLike, as_loss, cross_entropy, untargeted_loss
from lrat.randomness import Noise
from lrat.threat import BALL, Ball, BallLike
from lrat.types import Images, Labels, Logits

Start = Literal["uniform", "gaussian", "unprojected", "surface", "none"]
STARTS = one_of(get_args(Start))
_GAUSSIAN_SCALE = 0.001


def starting_point(start: Start, threat: Ball, images: Tensor, noise: Noise) -> Tensor:
    """The first iterate: uniform in the ball, x + 0.001 * N(0, 1) (TRADES), on its surface, or x.

    ``"unprojected"`` is the Gaussian start as in the code of TRADES' authors, a little outside
    [0, 1].
    """
    if start == "uniform":
        return threat.sample(images, noise)
    if start == "surface":
        return threat.surface(images, noise)
    if start in ("gaussian", "unprojected"):
        drawn = images + _GAUSSIAN_SCALE * noise.normal(images.shape, "start")
        return drawn if start == "unprojected" else threat.project(drawn, images)
    return threat.project(images, images)


def every_image(count: int, images: Tensor) -> Tensor:
    """[B]: the same count for each image."""
    return torch.full((len(images),), count, device=images.device)


@dataclass(frozen=True)
class Walk:
    """The result of PGD's steps: the last iterates [R C H W] and the steps survived [R]."""

    images: Tensor
    survived: Tensor

    def part(self, first: int, stop: int) -> "Walk":
        """The walk of these consecutive rows."""
        return Walk(self.images[first:stop], self.survived[first:stop])


@dataclass(frozen=True, kw_only=True)
class PGD(GradientAttack):
    """x(t+1) = project(x(t) + step_size * ascend(gradient)): Eq. 3 and Algorithm 2 (Madry 2018).

    ``step_size`` is in the ball's norm, [0, 1] units. ``loss``: any untargeted ``Loss`` or a
    function (logits, labels) -> [B]; with ``losses.cw`` this is CW (Algorithm 3). Returns the last
    iterate. ``steps_survived`` counts the correct iterates among x_0 ... x_{steps - 1} (kappa).
    One forward and one image gradient per step; nothing waits for the device inside the loop.
    """

    threat: BallLike
    steps: int
    step_size: float
    loss: LossLike = cross_entropy
    start: Start = "uniform"
    provides: ClassVar[frozenset[str]] = frozenset({"steps_survived"})

    def __post_init__(self) -> None:
        check_fields(self, threat=BALL, start=STARTS)
        object.__setattr__(self, "loss", untargeted_loss(self.loss, "PGD"))

    @property
    def needs_clean(self) -> bool:
        return as_loss(self.loss).needs_clean

    def perturb(
        self, model: nn.Module, images: Images, labels: Labels, noise: Noise, clean: Logits | None
    ) -> Variant:
        return self.variant(self.run(model, self.rows(images, labels, noise, clean)), images)

    @property
    def stride(self) -> tuple[object, ...]:
        """The settings that attacks must share to step as one batch (``attack_together``)."""
        return (self.threat, self.steps, self.step_size)

    @property
    def most_tries(self) -> int:
        """Rows per image."""
        return 1

    def rows(self, images: Tensor, labels: Tensor, noise: Noise, clean: Tensor | None) -> Rows:
        """The start of each image."""
        return Rows(
            loss=as_loss(self.loss).prepare(labels, clean),
            start=starting_point(self.start, self.threat, images, noise),
            center=images,
            labels=labels,
            batch=len(images),
        )

    def run(self, model: nn.Module, rows: Rows) -> Walk:
        """All steps of all rows, also those of other attacks with this stride."""
        current, inside = rows.start, self.threat.around(rows.center)
        survived = torch.zeros_like(rows.labels)
        for _ in range(self.steps):
            gradient, _, logits = image_gradient(model, rows.loss, current)
            survived += logits.argmax(1) == rows.labels
            direction = self.threat.ascend(gradient)
            current = inside(current + self.step_size * direction)
        return Walk(current, survived)

    def variant(self, run: Walk, images: Tensor) -> Variant:
        """The variant of each image from the run of this attack's rows."""
        passes = every_image(self.steps, images)
        return Variant(
            images=run.images,
            steps_survived=run.survived,
            max_steps=self.steps,
            trace=Trace(forwards=passes, backwards=passes),
        )
