"""Attacks: pure functions of (model, images, labels) that return a ``Variant``."""

from lrat.attacks.apgd import APGD
from lrat.attacks.base import Attack, GradientAttack, Trace, Variant
from lrat.attacks.fab import FAB
from lrat.attacks.foreign import Foreign, as_attack
from lrat.attacks.pgd import PGD
from lrat.attacks.presets import CW, FGSM, SAA
from lrat.attacks.square import Square

__all__ = [
    "APGD",
    "CW",
    "FAB",
    "FGSM",
    "PGD",
    "SAA",
    "Attack",
    "Foreign",
    "GradientAttack",
    "Square",
    "Trace",
    "Variant",
    "as_attack",
]
