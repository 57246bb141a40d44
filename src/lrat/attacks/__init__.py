"""Attacks: pure functions of (model, images, labels) that return a ``Variant``."""

from lrat.attacks.adapters import Foreign, as_attack
from lrat.attacks.apgd import APGD
from lrat.attacks.base import Attack, GradientAttack, Trace, Variant
from lrat.attacks.cascade import AutoAttack, Cascade, Restarts
from lrat.attacks.fab import FAB
from lrat.attacks.pgd import PGD
from lrat.attacks.presets import CW, FGSM, SAA
from lrat.attacks.square import Square
from lrat.attacks.wrappers import LogitScaled, Transfer

__all__ = [
    "APGD",
    "CW",
    "FAB",
    "FGSM",
    "PGD",
    "SAA",
    "Attack",
    "AutoAttack",
    "Cascade",
    "Foreign",
    "GradientAttack",
    "LogitScaled",
    "Restarts",
    "Square",
    "Trace",
    "Transfer",
    "Variant",
    "as_attack",
]
