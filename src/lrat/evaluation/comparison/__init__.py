"""Results side by side: two models on the same images, runs over seeds, groups of runs."""

from lrat.evaluation.comparison.group_scores import compare_groups
from lrat.evaluation.comparison.groups import Group, GroupComparison, Run
from lrat.evaluation.comparison.pairs import Comparison, Contrast, compare
from lrat.evaluation.comparison.seeds import (
    AttackSeedSpread,
    Mean,
    attack_seed_spread,
    mean_interval,
    paired_means,
    welch,
)
from lrat.evaluation.comparison.shared import average_accuracy, fooled_by_any

__all__ = [
    "AttackSeedSpread",
    "Comparison",
    "Contrast",
    "Group",
    "GroupComparison",
    "Mean",
    "Run",
    "attack_seed_spread",
    "average_accuracy",
    "compare",
    "compare_groups",
    "fooled_by_any",
    "mean_interval",
    "paired_means",
    "welch",
]
