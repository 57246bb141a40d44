"""The attack's view of a model: eval mode, frozen, BatchNorm folded, faster where that pays."""

from lrat.acceleration.checked import CheckedView, accelerate
from lrat.acceleration.choice import choose, describe, disagreement
from lrat.acceleration.view import Choices, FastView, PlainView, View
from lrat.modes import evaluating

__all__ = [
    "CheckedView",
    "Choices",
    "FastView",
    "PlainView",
    "View",
    "accelerate",
    "choose",
    "describe",
    "disagreement",
    "evaluating",
]
