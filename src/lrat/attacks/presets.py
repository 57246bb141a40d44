"""Named settings of PGD and Auto-PGD."""

from collections.abc import Mapping

from lrat.attacks.apgd import APGD
from lrat.attacks.pgd import PGD, Start
from lrat.checks import checked
from lrat.losses import cw, targeted_dlr
from lrat.threat import BALL, Ball

RETIRE = 10
"""After each so many steps of a 100-step gradient attack, fooled images leave the batch."""
RETIRE_SQUARE = 50
"""The same for Square, in queries."""
MOST_TARGETS = 9
"""The number of wrong classes at which AutoAttack's targeted attacks aim, if there are as many."""


@checked(threat=BALL)
def FGSM(*, threat: Ball, start: Start = "none") -> PGD:  # noqa: N802 - the attack's name
    """The fast gradient sign method (Goodfellow et al. 2015): one step of size epsilon."""
    return PGD(threat=threat, steps=1, step_size=threat.epsilon, start=start)


@checked(threat=BALL)
def CW(*, threat: Ball, steps: int, step_size: float, start: Start = "uniform") -> PGD:  # noqa: N802
    """PGD on the logit margin (Eq. 8 and 14, Algorithm 3)."""
    return PGD(threat=threat, steps=steps, step_size=step_size, loss=cw, start=start)


@checked(threat=BALL)
def SAA(  # noqa: N802
    *,
    threat: Ball,
    steps: int = 20,
    targets: int = 3,
    start: Start = "uniform",
    keep: Mapping[int, int] | None = None,
) -> APGD:
    """The paper's simplified AutoAttack: targeted Auto-PGD on the targeted DLR loss (Eq. 9).

    It aims at the ``targets`` highest wrong classes at the clean image, each from another uniform
    start, in one stacked batch, and returns the best-loss iterate with the smallest probability
    margin. An image that it cannot fool is its strongest candidate, never the clean image.

    ``keep={iterate: count}`` drops targets in between: see ``APGD``.
    """
    return APGD(
        threat=threat,
        steps=steps,
        loss=targeted_dlr,
        targets=targets,
        start=start,
        choice="best-loss",
        stacked=True,
        keep=keep,
    )
