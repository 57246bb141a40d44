"""Figures for papers and people, from stored records: PDF and PNG, with a caption beside them."""

from lrat.reporting.figures.agreement import (
    Agreement,
    agreement_figure,
    agreement_page,
    agreements,
    classes_figure,
    overlap_figure,
)
from lrat.reporting.figures.idea import Instance, Pair, idea_figure
from lrat.reporting.figures.ranking import RankedModel, ranking_figure
from lrat.reporting.figures.security import security_curve_figure
from lrat.reporting.figures.style import Drawn
from lrat.reporting.figures.training_curves import (
    AccuracyCurve,
    Mark,
    accuracy_figure,
    accuracy_limits,
)
from lrat.reporting.figures.vulnerability import (
    View,
    margin_figure,
    tail_words,
    vulnerability_figure,
    vulnerability_page,
)
from lrat.reporting.figures.weights import (
    WeightEpochs,
    weight_histogram_figure,
    weights_over_epochs_figure,
)
from lrat.reporting.figures.why import AttackPicture, PathPicture, why_figure

__all__ = [
    "AccuracyCurve",
    "Agreement",
    "AttackPicture",
    "Drawn",
    "Instance",
    "Mark",
    "Pair",
    "PathPicture",
    "RankedModel",
    "View",
    "WeightEpochs",
    "accuracy_figure",
    "accuracy_limits",
    "agreement_figure",
    "agreement_page",
    "agreements",
    "classes_figure",
    "idea_figure",
    "margin_figure",
    "overlap_figure",
    "ranking_figure",
    "security_curve_figure",
    "tail_words",
    "vulnerability_figure",
    "vulnerability_page",
    "weight_histogram_figure",
    "weights_over_epochs_figure",
    "why_figure",
]
