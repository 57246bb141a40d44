"""Suites of attacks, per-image outcomes, accuracies with intervals, comparisons, masking checks."""

from lrat.evaluation.averages import average_accuracy, fooled_by_any
from lrat.evaluation.brackets import Curve
from lrat.evaluation.compare import Comparison, Contrast, compare
from lrat.evaluation.curve import security_curve
from lrat.evaluation.evaluate import Progress, evaluate_suite
from lrat.evaluation.group_table import GroupComparison
from lrat.evaluation.grouping import compare_groups
from lrat.evaluation.groups import Group, Run
from lrat.evaluation.masking import Check, Panel, masking_panel
from lrat.evaluation.means import Mean, mean_interval, paired_means, welch
from lrat.evaluation.outcomes import Outcomes
from lrat.evaluation.result import EvaluationResult, MeanPasses
from lrat.evaluation.spread import AttackSeedSpread, attack_seed_spread
from lrat.evaluation.statistics import (
    Difference,
    Proportion,
    holm,
    mcnemar,
    paired_difference,
    sign_flip,
    smallest_detectable,
    wilson,
)
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
    "AttackSeedSpread",
    "Check",
    "Comparison",
    "Contrast",
    "Curve",
    "Difference",
    "EvaluationResult",
    "Group",
    "GroupComparison",
    "Mean",
    "MeanPasses",
    "Member",
    "Outcomes",
    "Panel",
    "Progress",
    "Proportion",
    "Run",
    "Suite",
    "adaptive",
    "attack_seed_spread",
    "average_accuracy",
    "compare",
    "compare_groups",
    "custom",
    "evaluate_suite",
    "fooled_by_any",
    "holm",
    "masking_panel",
    "mcnemar",
    "mean_interval",
    "paired_difference",
    "paired_means",
    "paper",
    "quick",
    "security_curve",
    "sign_flip",
    "smallest_detectable",
    "strong",
    "tier",
    "welch",
    "wilson",
]
