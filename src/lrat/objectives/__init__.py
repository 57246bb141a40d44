"""Objectives: one training loss from the losses of attacked images."""

from lrat.objectives.base import Objective, ObjectiveOutput, StepContext
from lrat.objectives.criterion import with_criterion
from lrat.objectives.phases import Phases, phases
from lrat.objectives.reweighted import Reweighted, Term
from lrat.objectives.trades import Trades

__all__ = [
    "Objective",
    "ObjectiveOutput",
    "Phases",
    "Reweighted",
    "StepContext",
    "Term",
    "Trades",
    "phases",
    "with_criterion",
]
