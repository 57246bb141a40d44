"""Checks that compare attacks: a stronger or a different one must not change the picture."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lrat.attacks.apgd import APGD
from lrat.attacks.pgd import PGD
from lrat.attacks.presets import CW, MOST_TARGETS, RETIRE_SQUARE
from lrat.attacks.square import Square
from lrat.attacks.wrappers import LogitScaled
from lrat.errors import SettingError
from lrat.evaluation.masking import limits
from lrat.evaluation.masking.gradient_checks import (
    converged,
    percent,
    pgd,
    pgd_stands,
    saturated,
    vanishing,
)
from lrat.evaluation.masking.panel import Check
from lrat.evaluation.masking.subject import Subject
from lrat.losses import targeted_dlr
from lrat.threat import Ball

AGREEMENT = "PGD, CW, AutoAttack agree"
SCALING = "scaled logits"
GROWTH = "falls as epsilon grows"
BLACK_BOX = "white box beats Square"

_RETIRE = 5
"""Oftener than AutoAttack does, whose attacks take more steps."""


def agreement(subject: Subject) -> Check:
    """Accuracy under PGD-20 minus that under the union of the other white-box attacks.

    Failed only where another sign of hidden gradients is there too: PGD alone also overstates
    models that were trained little, or on it.
    """
    ours = pgd_stands(subject, 20)
    others = {"CW-20": cw_stands(subject), "targeted Auto-PGD": targeted_stands(subject)}
    others |= {name: subject.right & ~fooled for name, fooled in subject.also_fooled.items()}
    theirs = torch.stack(list(others.values())).all(0)
    gap, status = limits.DISAGREEMENT.of_gap(ours, theirs)
    is_alone = status == "failed" and not _has_another_sign(subject)
    if is_alone:
        status = "suspicious"
    strongest = min(others, key=lambda name: int(others[name].sum()))
    numbers = (
        f"{percent(ours)} % stand under PGD-20, {percent(others[strongest])} % under "
        f"{strongest}, {percent(theirs)} % under all others"
    )
    return limits.DISAGREEMENT.check(
        *(AGREEMENT, gap, status),
        good=f"Other attacks find little that PGD does not ({numbers}).",
        bad=f"Another attack breaks much that PGD leaves standing ({numbers}): do not report "
        "this model's accuracy under PGD, report AutoAttack or the worst case."
        + (" No other check finds hidden gradients." if is_alone else ""),
    )


def _has_another_sign(subject: Subject) -> bool:
    """Whether dead gradients, the logits' size or scale, more steps or blind search show too."""
    checks = (vanishing, saturated, scaling, converged, black_box)
    return any(check(subject).status == "failed" for check in checks)


def scaling(subject: Subject) -> Check:
    """Accuracy under PGD-20 minus that under PGD-20 on logits times the best of the scales.

    One scale more brings the median lead of the clean logits to 1, where it is outside the others.
    """
    plain = pgd_stands(subject, 20)
    stands = {
        scale: subject.standing(
            f"pgd-20 on logits times {scale:g}",
            LogitScaled(attack=pgd(subject, 20), scale=scale),
        )
        for scale in _scales(subject)
    }
    best = min(stands, key=lambda scale: int(stands[scale].sum()))
    gap, status = limits.SCALING.of_gap(plain, stands[best])
    numbers = f"{percent(plain)} % stand, {percent(stands[best])} % at scale {best:g}"
    return limits.SCALING.check(
        *(SCALING, gap, status),
        good=f"Multiplying the logits by a constant changes little, as it should ({numbers}).",
        bad="Multiplying the logits by a constant, which changes no answer, makes PGD "
        f"stronger ({numbers}): the size of the logits hides the gradient; report scaled PGD "
        "or AutoAttack.",
    )


def growth(subject: Subject) -> Check:
    """PGD's accuracy when the ball holds every image."""
    left = {1.0: pgd_stands(subject, 20)}
    for threat in _growing(subject):
        name = f"pgd-20 at epsilon {threat.epsilon:g}"
        attack = PGD(threat=threat, steps=20, step_size=threat.epsilon / 4)
        left[threat.epsilon / subject.threat.epsilon] = subject.standing(name, attack)
    final = list(left.values())[-1]
    share, status = limits.UNBOUNDED.of_share(int(final.sum()), subject.n)
    numbers = ", ".join(f"{percent(stands)} % at {factor:.3g}" for factor, stands in left.items())
    return limits.UNBOUNDED.check(
        *(GROWTH, share, status),
        good=f"With room enough the attack fools everything (times epsilon: {numbers}).",
        bad=f"Even free to change every pixel at will the attack fails on {percent(final)} % "
        f"(times epsilon: {numbers}), so it is the attack that is weak, not the model that is "
        "strong: attack with CW, other step sizes, or Square.",
    )


def black_box(subject: Subject) -> Check:
    """Share of images that Square or noise fools and no gradient attack does.

    Where these are few they are attacked again by Auto-PGD at its full length.
    """
    stands = pgd_stands(subject, 20) & cw_stands(subject) & targeted_stands(subject)
    for steps in limits.STEPS:
        stands = stands & pgd_stands(subject, steps)
    square = Square(threat=subject.threat, queries=limits.QUERIES, retire_every=RETIRE_SQUARE)
    found = stands & ~(subject.standing("square", square, among=stands) & subject.standing_noise)
    if float(found.float().mean()) <= limits.SECOND_TRY:
        found = found & _second_try(subject, among=found)
    share, status = limits.BLACK_BOX.of_share(int(found.sum()), subject.n)
    numbers = f"{int(found.sum())} of {subject.n} images, {percent(stands)} % stood before"
    return limits.BLACK_BOX.check(
        *(BLACK_BOX, share, status),
        good=f"Attacks that know the gradient are at least as strong as blind search ({numbers}).",
        bad="Blind search (Square, noise) fools images that gradient attacks do not "
        f"({numbers}): the gradients mislead; count Square's result, run it with 5,000 "
        "queries, and smooth or bypass what hides the gradient.",
    )


def cw_stands(subject: Subject) -> Tensor:
    """[n]: right when clean and under CW-20."""
    attack = CW(threat=subject.threat, steps=20, step_size=subject.threat.epsilon / 4)
    return subject.standing("cw-20", attack)


def targeted_stands(subject: Subject) -> Tensor:
    """[n]: right when clean and under the panel's targeted Auto-PGD."""
    attack = APGD(
        threat=subject.threat,
        steps=limits.TARGETED_STEPS,
        loss=targeted_dlr,
        targets=_targets(subject),
        retire_every=_RETIRE,
    )
    return subject.standing("apgd-t", attack)


def _second_try(subject: Subject, among: Tensor) -> Tensor:
    """[n]: right also after long runs of Auto-PGD from new starts, on these images."""
    common = partial(
        APGD, threat=subject.threat, steps=limits.LONG_STEPS, restarts=2, retire_every=_RETIRE
    )
    attacks = {
        "apgd-ce, long": common(),
        "apgd-t, long": common(loss=targeted_dlr, targets=_targets(subject)),
    }
    stands = [subject.standing(name, attack, among) for name, attack in attacks.items()]
    return torch.stack(stands).all(0)


def _targets(subject: Subject) -> int:
    return min(MOST_TARGETS, subject.classes - 1)


def _scales(subject: Subject) -> list[float]:
    top = subject.clean[subject.right].topk(2, dim=1).values
    lead = float((top[:, 0] - top[:, 1]).median())
    scales = [scale for scale in limits.SCALES if scale != 1]
    unit = 1 / lead if lead > 0 else 1.0
    if math.isfinite(unit) and not min(scales) <= unit <= max(scales):
        scales.append(unit)
    return scales


def _growing(subject: Subject) -> list[Ball]:
    """Larger balls of the same kind, the last of which reaches every corner of the box."""
    threat: Any = subject.threat
    images = subject.batch.images
    corner = float(threat.distance((images < 0.5).float(), images).amax())
    whole = min(corner, threat.norm.largest)
    grown = [threat.epsilon * factor for factor in limits.GROWTH]
    epsilons = [*(epsilon for epsilon in grown if epsilon < whole), whole]
    try:
        return [replace(threat, epsilon=each) for each in epsilons]
    except TypeError:
        raise SettingError(f"{threat!r} cannot be grown: use Linf or L2") from None
