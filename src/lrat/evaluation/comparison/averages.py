"""Several attacks in one number beside the worst case: the average and the union."""

from collections.abc import Sequence

from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.statistics import Difference, Proportion, mean_of


def average_accuracy(result: EvaluationResult) -> Proportion | None:
    """The mean of the accuracies under a result's attacks; None for a result without attacks.

    The ends are the means of the attacks' Wilson ends. Such an interval is never too narrow: the
    standard deviation of a mean is at most the mean of the standard deviations, and equal to it
    where the attacks fool the same images.
    """
    return result.average


def fooled_by_any(result: EvaluationResult) -> Proportion:
    """The share of images in the union of all attacks' successes, those that are wrong when clean
    included: 1 - worst case."""
    stands = result.worst_case
    return Proportion(value=1 - stands.value, low=1 - stands.high, high=1 - stands.low, n=stands.n)


def mean_difference(differences: Sequence[Difference]) -> Difference:
    """The mean of paired differences on the same images, its ends as in ``average_accuracy``."""
    return Difference(
        value=mean_of(each.value for each in differences),
        low=mean_of(each.low for each in differences),
        high=mean_of(each.high for each in differences),
        n=differences[0].n,
    )
