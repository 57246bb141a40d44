"""The objective of the paper's tables (Eq. 7) with its normalisation (Eq. 15)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lrat.attacks.adapters import BOX, AttackLike, as_attack
from lrat.attacks.base import Variant
from lrat.attacks.batched import PlannedAttack, attack_together, rows_that_pay
from lrat.checks import check_fields, instance, one_of, tuple_of
from lrat.errors import SettingError
from lrat.losses import LossLike, cross_entropy
from lrat.modes import evaluating
from lrat.objectives.base import ObjectiveOutput, StepContext
from lrat.objectives.criterion import as_criterion
from lrat.outputs import forward_logits
from lrat.text import as_call, shown
from lrat.types import Batch, PerExample
from lrat.weighting.base import Evidence, Uniform, Weighting

Normalization = Literal["batch", "instance", "none"]
CLEAN = "clean"
ANCHOR = "anchor"
"""The name of the variant of an anchor that is an attack but no term."""

_WEIGHTING = instance(Weighting, need="a weighting", example="MarginPower()")


@dataclass(frozen=True, kw_only=True)
class Term:
    """One attack with its weighting: one j of Eq. 7. Plain callables are adapted as attacks.

    ``criterion``: the loss of this term's variants; None is that of the objective. Raises
    ``SettingError`` when the weighting needs evidence that the attack does not provide, such as the
    geometric distance of an attack that counts no steps.
    """

    name: str
    attack: AttackLike
    weighting: Weighting = field(default_factory=Uniform)
    criterion: LossLike | None = None

    def __post_init__(self) -> None:
        check_fields(self, weighting=_WEIGHTING)
        if not isinstance(self.name, str) or self.name in ("", CLEAN, ANCHOR):
            raise SettingError(
                f"Term(name={shown(self.name)}): give a name other than {CLEAN!r} and {ANCHOR!r}"
            )
        attack = as_attack(self.attack, threat=BOX)
        object.__setattr__(self, "attack", attack)
        if self.criterion is not None:
            object.__setattr__(self, "criterion", as_criterion(self.criterion))
        missing = self.weighting.needs - attack.provides
        if missing:
            raise SettingError(
                f"Term {self.name!r}: {self.weighting!r} needs {', '.join(sorted(missing))}, which "
                f"{type(attack).__name__} does not provide; PGD and CW do"
            )

    def __repr__(self) -> str:
        return as_call(self, quiet=["criterion"])


_TERMS = tuple_of(Term, need="a list of Terms", example="[Term(name='pgd', attack=PGD(...))]")


@dataclass(frozen=True, kw_only=True)
class Reweighted:
    """mean_i { [C - sum_j w_ij]_+ loss(x*_i) + sum_j w_ij loss(x_ij) } (Eq. 7, Algorithm 1).

    ``min_weight`` is C; x* is the variant of the term named by ``anchor`` (default: the first
    term), the clean image for ``"clean"``, or the variant of an attack that is no term. With C = 0
    there is no floor. ``normalization``:

    * ``"batch"``: Eq. 15, mean_i {[C - sum_j w_ij]_+ + sum_j w_ij} = 1 over the global batch;
    * ``"instance"``: each image's floor and weights sum to 1;
    * ``"none"``: Algorithm 1 as printed.

    Weights have no gradient and are computed from the training forward's logits; a weight that is
    not finite and >= 0 makes the total NaN. The variants of each attack are forwarded as another
    batch for BatchNorm. ``criterion`` is the loss of Eq. 7, per example: the paper's cross-entropy,
    or another of logits and labels alone, as ``losses.smoothed_cross_entropy``; the losses of the
    attacks do not depend on it.

    Attacks that step alike run as one batch of at most ``share_rows`` rows, with the same results
    (see ``attack_together``). None: where that is faster (``rows_that_pay``); 0: each attack runs
    alone; larger: more memory, for a GPU that one attack does not fill.
    """

    terms: Sequence[Term]
    min_weight: float = 0.0
    normalization: Normalization = "batch"
    anchor: str | AttackLike | None = None
    share_rows: int | None = None
    criterion: LossLike = cross_entropy

    def __post_init__(self) -> None:
        check_fields(self, terms=_TERMS, normalization=one_of(get_args(Normalization)))
        object.__setattr__(self, "criterion", as_criterion(self.criterion))
        names = [term.name for term in self.terms]
        if len(set(names)) != len(names):
            raise SettingError(f"terms {names}: names must differ, each draws its own noise")
        if isinstance(self.anchor, str) and self.anchor not in (*names, CLEAN):
            raise SettingError(
                f"anchor={shown(self.anchor)}: choose one of {[*names, CLEAN]}, or an attack"
            )
        if not names and (self.min_weight == 0 or self.anchor != CLEAN):
            raise SettingError("no terms: natural training needs min_weight > 0 and anchor='clean'")
        if self.anchor is not None and not isinstance(self.anchor, str):
            object.__setattr__(self, "anchor", as_attack(self.anchor, threat=BOX))
            if self.min_weight == 0:
                raise SettingError(
                    f"anchor={shown(self.anchor)}: an attack that is no term computes the images "
                    "of the floor alone, and min_weight=0 has no floor: set min_weight above 0"
                )

    def attack(self, view: nn.Module, batch: Batch, step: StepContext) -> dict[str, Variant]:
        """A variant per term, and of an anchor that is no term, each with other noise; the clean
        logits are computed once for all."""
        attacks = {term.name: as_attack(term.attack, threat=BOX) for term in self.terms}
        if self.anchor is not None and not isinstance(self.anchor, str):
            attacks[ANCHOR] = as_attack(self.anchor, threat=BOX)
        clean_logits = None
        if any(attack.needs_clean for attack in attacks.values()):
            with evaluating(view), torch.no_grad():
                clean_logits = forward_logits(view, batch.images)
        pays = rows_that_pay(batch.images)
        variants = attack_together(
            view,
            batch.images,
            batch.labels,
            [
                PlannedAttack(attack=attack, noise=step.noise.child(name))
                for name, attack in attacks.items()
            ],
            clean_logits=clean_logits,
            most_rows=pays if self.share_rows is None else self.share_rows,
        )
        return dict(zip(attacks, variants, strict=True))

    def loss(
        self, model: nn.Module, batch: Batch, variants: Mapping[str, Variant], step: StepContext
    ) -> ObjectiveOutput:
        """Total and normalizer of Eq. 7; with Eq. 15 their quotient is the mean over the batch."""
        losses: dict[str, Tensor] = {}
        raw: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {}
        correct: Tensor | None = None
        for term in self.terms:
            variant = variants[term.name]
            logits = forward_logits(model, variant.images)
            criterion = self.criterion if term.criterion is None else term.criterion
            losses[term.name] = as_criterion(criterion).prepare(batch.labels)(logits)
            raw[term.name] = self._weigh(term, logits, batch, variant)
            # A negative weight would cancel against other weights, or look like 0.
            weights[term.name] = torch.where(raw[term.name] >= 0, raw[term.name], torch.nan)
            correct = self._correct(logits, batch) if correct is None else correct
        if self.min_weight > 0:
            anchor = self.anchor or self.terms[0].name
            anchor = anchor if isinstance(anchor, str) else ANCHOR
            if anchor not in weights:
                images = batch.images if anchor == CLEAN else variants[ANCHOR].images
                logits = forward_logits(model, images)
                losses[anchor] = as_criterion(self.criterion).prepare(batch.labels)(logits)
                correct = self._correct(logits, batch) if correct is None else correct
            floor = (self.min_weight - _row_sum(weights.values(), batch)).clamp(min=0)
            coefficients = {**weights, anchor: weights.get(anchor, 0) + floor}
        else:
            coefficients = dict(weights)
        coefficients, fallback = self._replace_zeros(coefficients, batch, step)
        rows = _row_sum(coefficients.values(), batch)
        count = torch.full_like(rows[0], len(batch))
        if self.normalization == "instance":
            coefficients = {name: part / rows for name, part in coefficients.items()}
        normalizer = rows.sum() if self.normalization == "batch" else count
        weighted = [coefficients[name] * losses[name] for name in coefficients]
        records = {f"loss/{name}": part.detach() for name, part in losses.items()}
        records |= {f"weight/{name}": part for name, part in raw.items()}
        # Where another process has all the weight of a step, the shares here are 0, not NaN.
        scale = torch.where(normalizer > 0, count / normalizer, 0.0)
        records |= {f"share/{name}": part * scale for name, part in coefficients.items()}
        return ObjectiveOutput(
            total=torch.stack(weighted).sum(),
            normalizer=normalizer,
            per_example=records,
            fallback=fallback,
            stand_in=fallback if self.normalization == "batch" else None,
            correct=correct,
        )

    def __repr__(self) -> str:
        return as_call(self, quiet=["criterion"])

    def _weigh(self, term: Term, logits: Tensor, batch: Batch, variant: Variant) -> PerExample:
        evidence = Evidence(
            logits=logits,
            labels=batch.labels,
            steps_survived=variant.steps_survived,
            max_steps=variant.max_steps,
        )
        with torch.no_grad():
            weights = term.weighting(evidence).float()
        if weights.shape != batch.labels.shape:
            raise SettingError(
                f"term {term.name!r}: {term.weighting!r} returned shape {tuple(weights.shape)} for "
                f"{len(batch)} images: a weighting must return [B]"
            )
        return weights

    @staticmethod
    def _correct(logits: Tensor, batch: Batch) -> Tensor:
        return logits.detach().argmax(1) == batch.labels

    def _replace_zeros(
        self, coefficients: dict[str, Tensor], batch: Batch, step: StepContext
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Uniform coefficients where Eq. 15 would divide by zero, for the step or the image."""
        rows = _row_sum(coefficients.values(), batch)
        if self.normalization == "none":
            return coefficients, torch.zeros_like(rows[0])
        if self.normalization == "batch":
            none = step.mean_across_processes(rows.mean()) == 0
            none = none if step.weighed is None else none & ~step.weighed
            empty = none.expand_as(rows)
        else:
            empty = rows == 0
        filled = {name: torch.where(empty, 1.0, part) for name, part in coefficients.items()}
        return filled, empty.any().float()


def _row_sum(parts: Iterable[Tensor], batch: Batch) -> Tensor:
    total = torch.zeros(len(batch), device=batch.images.device)
    for part in parts:
        total = total + part
    return total
