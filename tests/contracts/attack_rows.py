"""The table of attacks that the contract is tested on."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the community's name
from torch import Tensor, nn

from lrat.attacks import (
    APGD,
    CW,
    FAB,
    FGSM,
    PGD,
    SAA,
    Attack,
    Cascade,
    Foreign,
    LogitScaled,
    Restarts,
    Square,
    Transfer,
)
from lrat.losses import cross_entropy, dlr, kl, targeted_dlr
from lrat.threat import L2, Ball, Linf
from trained import trained

LINF, EUCLIDEAN = Linf(epsilon=0.15), L2(epsilon=1.0)


@dataclass
class OfALibrary:
    """PGD as other libraries write it: global random state, ``backward``, modes left behind."""

    epsilon: float

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        np.random.rand(random.randrange(1, 3))
        shift = torch.rand_like(images) * 2 - 1
        adversarial = (images + self.epsilon * shift).clamp(0, 1)
        for _ in range(3):
            adversarial.requires_grad = True
            F.cross_entropy(model(adversarial), labels).backward()
            adversarial = (adversarial + self.epsilon / 2 * adversarial.grad.sign()).detach()
            adversarial = adversarial.clamp(images - self.epsilon, images + self.epsilon)
            adversarial = adversarial.clamp(0, 1)
        model.train()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        return adversarial


@dataclass(frozen=True)
class Row:
    """``keyed``: its noise is one number per image; ``called``: it asks the model it attacks."""

    make: Callable[[Ball], Attack]
    threat: Ball = LINF
    classes: int = 10
    random_start: bool = True
    keyed: bool = True
    gradient: bool = True
    called: bool = True

    @property
    def attack(self) -> Attack:
        return self.make(self.threat)


def pgd(threat: Ball, **settings: Any) -> PGD:
    return PGD(threat=threat, steps=5, step_size=threat.epsilon / 3, **settings)


def apgd(threat: Ball, **settings: Any) -> APGD:
    return APGD(threat=threat, steps=7, **settings)


def targeted(threat: Ball) -> APGD:
    return apgd(threat, loss=targeted_dlr, targets=9)


def saa(threat: Ball) -> APGD:
    return SAA(threat=threat, steps=7)


def fab(threat: Ball, **settings: Any) -> FAB:
    return FAB(threat=threat, **{"steps": 7, "retire_every": 3} | settings)


def square(threat: Ball, **settings: Any) -> Square:
    return Square(threat=threat, queries=12, **settings)


def negative_logit(logits: Tensor, labels: Tensor) -> Tensor:
    return -logits.gather(1, labels[:, None]).squeeze(1)


ROWS = {
    "pgd": Row(pgd),
    "pgd-l2": Row(pgd, threat=EUCLIDEAN),
    "pgd-gaussian": Row(lambda threat: pgd(threat, start="gaussian")),
    "pgd-surface": Row(lambda threat: pgd(threat, start="surface")),
    "pgd-none": Row(lambda threat: pgd(threat, start="none"), random_start=False),
    "pgd-kl": Row(lambda threat: pgd(threat, loss=kl)),
    "pgd-own-loss": Row(lambda threat: pgd(threat, loss=negative_logit)),
    "fgsm": Row(lambda threat: FGSM(threat=threat), random_start=False),
    "cw": Row(lambda threat: CW(threat=threat, steps=5, step_size=threat.epsilon / 3)),
    "cw-2-classes": Row(
        lambda threat: CW(threat=threat, steps=5, step_size=threat.epsilon / 3), classes=2
    ),
    "apgd-ce": Row(lambda threat: apgd(threat, loss=cross_entropy)),
    "apgd-ce-l2": Row(apgd, threat=EUCLIDEAN),
    "apgd-none": Row(lambda threat: apgd(threat, start="none"), random_start=False),
    "apgd-dlr": Row(lambda threat: apgd(threat, loss=dlr)),
    "apgd-dlr-2-classes": Row(lambda threat: apgd(threat, loss=dlr), classes=2),
    "apgd-kl": Row(lambda threat: apgd(threat, loss=kl)),
    "apgd-restarts": Row(lambda threat: apgd(threat, restarts=2)),
    "apgd-t": Row(targeted),
    "apgd-t-3-classes": Row(targeted, classes=3),
    "apgd-t-2-classes": Row(targeted, classes=2),
    "saa": Row(saa),
    "saa-l2": Row(saa, threat=EUCLIDEAN),
    "saa-2-classes": Row(saa, classes=2),
    "saa-halved": Row(lambda threat: SAA(threat=threat, steps=7, keep={2: 2, 4: 1})),
    "saa-halved-2-classes": Row(
        lambda threat: SAA(threat=threat, steps=7, keep={2: 2, 4: 1}), classes=2
    ),
    "fab": Row(fab, random_start=False),
    "fab-l2": Row(fab, threat=EUCLIDEAN, random_start=False),
    "fab-all-steps": Row(lambda threat: fab(threat, retire_every=None), random_start=False),
    "fab-dlr": Row(lambda threat: fab(threat, loss=targeted_dlr), random_start=False),
    "fab-3-classes": Row(fab, classes=3, random_start=False),
    "fab-2-classes": Row(fab, classes=2, random_start=False),
    "square": Row(square, gradient=False),
    "square-l2": Row(square, threat=EUCLIDEAN, gradient=False),
    "square-retired": Row(lambda threat: square(threat, retire_every=5), gradient=False),
    "square-restarts": Row(lambda threat: square(threat, restarts=2), gradient=False),
    "square-own-loss": Row(lambda threat: square(threat, loss=negative_logit), gradient=False),
    "square-kl": Row(lambda threat: square(threat, loss=kl), gradient=False),
    "square-2-classes": Row(square, classes=2, gradient=False),
    "cascade": Row(lambda threat: Cascade(members={"ce": apgd(threat), "square": square(threat)})),
    "cascade-targeted": Row(
        lambda threat: Cascade(members={"t": targeted(threat), "fab": fab(threat)})
    ),
    "cascade-l2": Row(
        lambda threat: Cascade(members={"pgd": pgd(threat), "fab": fab(threat)}), threat=EUCLIDEAN
    ),
    "restarts": Row(lambda threat: Restarts(attack=pgd(threat), count=3)),
    "restarts-targeted": Row(lambda threat: Restarts(attack=targeted(threat), count=2)),
    "logit-scaled": Row(lambda threat: LogitScaled(attack=pgd(threat), scale=10)),
    "logit-scaled-kl": Row(lambda threat: LogitScaled(attack=pgd(threat, loss=kl), scale=0.1)),
    "transfer": Row(
        lambda threat: Transfer(attack=pgd(threat), source=trained("dense"), name="dense"),
        gradient=False,
        called=False,
    ),
    "foreign": Row(
        lambda threat: Foreign(function=OfALibrary(threat.epsilon), threat=threat), keyed=False
    ),
}
