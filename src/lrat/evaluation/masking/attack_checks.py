"""Checks that compare attacks: a stronger or different attack must find similar accuracies."""

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
    robust_to_pgd,
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
"""More often than in AutoAttack, whose attacks take more steps."""


def agreement(subject: Subject) -> Check:
    """Accuracy under PGD-20 minus that under the union of the other white-box attacks.

    It fails only together with another sign of hidden gradients, since PGD alone also overstates
    models that were trained for few epochs, or with PGD.
    """
    pgd_20 = robust_to_pgd(subject, 20)
    others = {"CW-20": robust_to_cw(subject), "targeted Auto-PGD": robust_to_targeted(subject)}
    others |= {name: subject.right & ~fooled for name, fooled in subject.also_fooled.items()}
    union = torch.stack(list(others.values())).all(0)
    gap, status = limits.DISAGREEMENT.of_gap(pgd_20, union)
    is_alone = status == "failed" and not _has_another_sign(subject)
    if is_alone:
        status = "suspicious"
    strongest = min(others, key=lambda name: int(others[name].sum()))
    numbers = (
        f"{percent(pgd_20)} % robust under PGD-20, {percent(others[strongest])} % under "
        f"{strongest}, {percent(union)} % under all others"
    )
    return limits.DISAGREEMENT.check(
        *(AGREEMENT, gap, status),
        good=f"Other attacks fool few images that PGD does not ({numbers}).",
        bad=f"Another attack fools many images that PGD does not ({numbers}): do not report "
        "this model's accuracy under PGD, report AutoAttack or the worst case."
        + (" No other check finds hidden gradients." if is_alone else ""),
    )


def _has_another_sign(subject: Subject) -> bool:
    """Whether another check of hidden gradients has failed."""
    checks = (vanishing, saturated, scaling, converged, black_box)
    return any(check(subject).status == "failed" for check in checks)


def scaling(subject: Subject) -> Check:
    """Accuracy under PGD-20 minus that under PGD-20 on logits times the best of the scales.

    Another scale gives the clean logits a median lead of 1, if it is outside the range of the
    others.
    """
    plain = robust_to_pgd(subject, 20)
    robust = {
        scale: subject.robust_to(
            f"pgd-20 on logits times {scale:g}",
            LogitScaled(attack=pgd(subject, 20), scale=scale),
        )
        for scale in _scales(subject)
    }
    best = min(robust, key=lambda scale: int(robust[scale].sum()))
    gap, status = limits.SCALING.of_gap(plain, robust[best])
    numbers = f"{percent(plain)} % robust, {percent(robust[best])} % at scale {best:g}"
    return limits.SCALING.check(
        *(SCALING, gap, status),
        good=f"Multiplying the logits by a constant changes little, as it should ({numbers}).",
        bad="Multiplying the logits by a constant, which changes no prediction, makes PGD "
        f"stronger ({numbers}): the size of the logits hides the gradient; report scaled PGD "
        "or AutoAttack.",
    )


def growth(subject: Subject) -> Check:
    """PGD's accuracy when the ball contains every image."""
    robust = {1.0: robust_to_pgd(subject, 20)}
    for threat in _growing(subject):
        name = f"pgd-20 at epsilon {threat.epsilon:g}"
        attack = PGD(threat=threat, steps=20, step_size=threat.epsilon / 4)
        robust[threat.epsilon / subject.threat.epsilon] = subject.robust_to(name, attack)
    final = list(robust.values())[-1]
    share, status = limits.UNBOUNDED.of_share(int(final.sum()), subject.n)
    numbers = ", ".join(f"{percent(rows)} % at {factor:.3g}" for factor, rows in robust.items())
    return limits.UNBOUNDED.check(
        *(GROWTH, share, status),
        good=f"With a large epsilon the attack fools every image (times epsilon: {numbers}).",
        bad=f"Even without a bound on its pixels the attack fails on {percent(final)} % "
        f"(times epsilon: {numbers}), so the attack is weak, and the model need not be robust: "
        "attack with CW, other step sizes, or Square.",
    )


def black_box(subject: Subject) -> Check:
    """Share of images that Square or noise fools and no gradient attack does.

    If these are few, Auto-PGD attacks them again at its full length.
    """
    robust = robust_to_pgd(subject, 20) & robust_to_cw(subject) & robust_to_targeted(subject)
    for steps in limits.STEPS:
        robust = robust & robust_to_pgd(subject, steps)
    square = Square(threat=subject.threat, queries=limits.QUERIES, retire_every=RETIRE_SQUARE)
    fooled = robust & ~(subject.robust_to("square", square, robust) & subject.robust_to_noise)
    if float(fooled.float().mean()) <= limits.SECOND_TRY:
        fooled = fooled & _second_try(subject, among=fooled)
    share, status = limits.BLACK_BOX.of_share(int(fooled.sum()), subject.n)
    numbers = f"{int(fooled.sum())} of {subject.n} images, {percent(robust)} % robust before"
    return limits.BLACK_BOX.check(
        *(BLACK_BOX, share, status),
        good=f"Gradient attacks are at least as strong as black-box search ({numbers}).",
        bad="Black-box search (Square, noise) fools images that gradient attacks do not "
        f"({numbers}): the gradients mislead; count Square's result, run it with 5,000 "
        "queries, and smooth or bypass what hides the gradient.",
    )


def robust_to_cw(subject: Subject) -> Tensor:
    """[n]: right when clean and under CW-20."""
    attack = CW(threat=subject.threat, steps=20, step_size=subject.threat.epsilon / 4)
    return subject.robust_to("cw-20", attack)


def robust_to_targeted(subject: Subject) -> Tensor:
    """[n]: right when clean and under the panel's targeted Auto-PGD."""
    attack = APGD(
        threat=subject.threat,
        steps=limits.TARGETED_STEPS,
        loss=targeted_dlr,
        targets=_targets(subject),
        retire_every=_RETIRE,
    )
    return subject.robust_to("apgd-t", attack)


def _second_try(subject: Subject, among: Tensor) -> Tensor:
    """[n]: right also after long runs of Auto-PGD from new starts, on these images."""
    common = partial(
        APGD, threat=subject.threat, steps=limits.LONG_STEPS, restarts=2, retire_every=_RETIRE
    )
    attacks = {
        "apgd-ce, long": common(),
        "apgd-t, long": common(loss=targeted_dlr, targets=_targets(subject)),
    }
    robust = [subject.robust_to(name, attack, among) for name, attack in attacks.items()]
    return torch.stack(robust).all(0)


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
    """Larger balls of the same norm, the last of which contains the whole box."""
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
