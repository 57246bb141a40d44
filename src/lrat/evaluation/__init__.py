"""Suites of attacks, per-image outcomes, accuracies with intervals, paired comparisons."""

from lrat.evaluation.compare import Comparison, Contrast, compare
from lrat.evaluation.evaluate import Progress, evaluate_suite
from lrat.evaluation.outcomes import Outcomes
from lrat.evaluation.result import EvaluationResult, MeanPasses
from lrat.evaluation.statistics import Difference, Proportion, mcnemar, paired_difference, wilson
from lrat.evaluation.suites import (
    NATURAL,
    Member,
    Suite,
    adaptive,
    custom,
    paper,
    quick,
    strong,
    tier,
)

__all__ = [
    "NATURAL",
    "Comparison",
    "Contrast",
    "Difference",
    "EvaluationResult",
    "MeanPasses",
    "Member",
    "Outcomes",
    "Progress",
    "Proportion",
    "Suite",
    "adaptive",
    "compare",
    "custom",
    "evaluate_suite",
    "mcnemar",
    "paired_difference",
    "paper",
    "quick",
    "strong",
    "tier",
    "wilson",
]
