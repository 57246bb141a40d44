"""Several attacks in one number beside the worst case: the average and the union."""

from collections.abc import Iterable, Sequence

from lrat.evaluation.common import attacks_of
from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.statistics import Difference, Proportion


def average_accuracy(result: EvaluationResult) -> Proportion | None:
    """The mean of the accuracies under a result's attacks; None for a result without attacks.

    The ends are the means of the attacks' Wilson ends. Such an interval is never too narrow: the
    standard deviation of a mean is at most the mean of the standard deviations, and equal to it
    where the attacks fool the same images.
    """
    attacks = attacks_of(result)
    return mean_proportion([result.accuracy[name] for name in attacks]) if attacks else None


def fooled_by_any(result: EvaluationResult) -> Proportion:
    """The share of images in the union of all attacks' successes, those that are wrong when clean
    included: 1 - worst case."""
    stands = result.worst_case
    return Proportion(value=1 - stands.value, low=1 - stands.high, high=1 - stands.low, n=stands.n)


def mean_proportion(shares: Sequence[Proportion]) -> Proportion:
    """The mean of shares of the same images, its ends as in ``average_accuracy``."""
    return Proportion(
        value=_mean(share.value for share in shares),
        low=_mean(share.low for share in shares),
        high=_mean(share.high for share in shares),
        n=shares[0].n,
    )


def mean_difference(differences: Sequence[Difference]) -> Difference:
    """The mean of paired differences on the same images, its ends as in ``average_accuracy``."""
    return Difference(
        value=_mean(each.value for each in differences),
        low=_mean(each.low for each in differences),
        high=_mean(each.high for each in differences),
        n=differences[0].n,
    )


def _mean(values: Iterable[float]) -> float:
    every = list(values)
    return sum(every) / len(every)
