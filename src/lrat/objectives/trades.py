"""TRADES (Zhang et al. 2019): clean cross-entropy plus the divergence to the attacked image."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lrat.attacks.adapters import BOX, AttackLike, as_attack, protected_from
from lrat.attacks.base import Variant
from lrat.checks import FLAG, NOT_NEGATIVE, check_fields
from lrat.losses import Loss, LossLike, cross_entropy, kl
from lrat.modes import evaluating
from lrat.objectives.base import ObjectiveOutput, StepContext
from lrat.objectives.criterion import as_criterion
from lrat.outputs import forward_logits
from lrat.text import as_call
from lrat.types import Batch

_TERM = "kl"


@dataclass(frozen=True, kw_only=True)
class Trades:
    """mean_i { CE(f(x_i), y_i) + beta * KL(p(x_i) || p(x'_i)) }, x' ascending the same divergence.

    ``attack_with``: the attack that computes x'; the authors use 10 steps of PGD on the divergence,
    from x + 0.001 * N(0, 1). ``criterion``: the loss of the clean image, the authors' cross-entropy
    or another of logits and labels alone. Clean and attacked images are forwarded separately; the
    gradient flows through both. ``clean_twice``: the clean images are forwarded once for each term,
    as in the authors' code, so that they count twice in BatchNorm's running statistics.
    """

    attack_with: AttackLike
    beta: float = 6.0
    divergence: Loss = kl
    criterion: LossLike = cross_entropy
    clean_twice: bool = False

    def __post_init__(self) -> None:
        check_fields(self, beta=NOT_NEGATIVE, clean_twice=FLAG)
        object.__setattr__(self, "attack_with", as_attack(self.attack_with, threat=BOX))
        object.__setattr__(self, "criterion", as_criterion(self.criterion))

    def __repr__(self) -> str:
        return as_call(self, quiet=["criterion", "clean_twice"])

    def attack(self, view: nn.Module, batch: Batch, step: StepContext) -> dict[str, Variant]:
        with evaluating(view), torch.no_grad():
            clean_logits = forward_logits(view, batch.images)
        ascent = as_attack(self.attack_with, threat=BOX)
        noise = step.noise.child(_TERM)
        with protected_from(ascent, view):
            variant = ascent(
                view, batch.images, batch.labels, noise=noise, clean_logits=clean_logits
            )
        return {_TERM: variant}

    def loss(
        self, model: nn.Module, batch: Batch, variants: Mapping[str, Variant], step: StepContext
    ) -> ObjectiveOutput:
        clean_logits = forward_logits(model, batch.images)
        logits = forward_logits(model, variants[_TERM].images)
        natural = as_criterion(self.criterion).prepare(batch.labels)(clean_logits)
        if self.clean_twice:
            clean_logits = forward_logits(model, batch.images)
        divergence = self.divergence.prepare(batch.labels, clean_logits)(logits)
        each = natural + self.beta * divergence
        return ObjectiveOutput(
            total=each.sum(),
            normalizer=torch.full_like(each[0], len(batch)).detach(),
            per_example={"loss/clean": natural.detach(), f"loss/{_TERM}": divergence.detach()},
            correct=logits.detach().argmax(1) == batch.labels,
        )
