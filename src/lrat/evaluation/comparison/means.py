"""How far a mean over repetitions can be trusted: Student's t over training seeds.

A repetition is a whole run, so these intervals hold for what the next run would give; intervals
over images (``statistics``) hold for the one model that was measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from lrat.errors import SettingError
from lrat.evaluation.statistics import ALPHA, POWER


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of ``n`` repetitions, the ends of its 95 % interval, their standard deviation.

    One value says nothing about the next, and neither do values without any spread: then ``low``
    and ``high`` are None, and for one value so is ``deviation``.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    deviation: float | None


@dataclass(frozen=True, kw_only=True)
class MeanDifference:
    """Mean of a minus mean of b with its 95 % interval and the two-sided p of the same test.

    ``test``: "paired t" or "Welch"; ``freedom``: its degrees of freedom; ``detectable``: the least
    difference that so many repetitions with this spread would show in four of five cases.
    """

    value: float
    low: float
    high: float
    p: float
    test: str
    freedom: float
    detectable: float


def mean_interval(values: Sequence[float]) -> Mean:
    """Student's t-interval, 95 %, of repetitions such as one configuration's accuracies over
    training seeds. Raises ``SettingError`` for no values and for values that are not finite."""
    _check(values)
    n, value = len(values), fmean(values)
    if n == 1:
        return Mean(value=value, low=None, high=None, n=1, deviation=None)
    deviation = _deviation(values)
    if deviation == 0:
        return Mean(value=value, low=None, high=None, n=n, deviation=0.0)
    half = _t_quantile(1 - ALPHA / 2, n - 1) * deviation / math.sqrt(n)
    return Mean(value=value, low=value - half, high=value + half, n=n, deviation=deviation)


def welch(a: Sequence[float], b: Sequence[float], *, comparisons: int = 1) -> MeanDifference | None:
    """Difference of the means of independent repetitions, with variances of their own (Welch 1947).

    ``comparisons``: how many the table holds, for ``detectable`` alone, as in
    ``smallest_detectable``. None where nothing can be said: fewer than two values on a side, or no
    spread on either.
    """
    _check(a)
    _check(b)
    if min(len(a), len(b)) < 2:
        return None
    parts = [_deviation(side) ** 2 / len(side) for side in (a, b)]
    variance = sum(parts)
    if variance == 0:
        return None
    # Welch-Satterthwaite.
    freedom = variance**2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (a, b), strict=True)
    )
    return _difference(fmean(a) - fmean(b), math.sqrt(variance), freedom, "Welch", comparisons)


def paired_means(
    a: Sequence[float], b: Sequence[float], *, comparisons: int = 1
) -> MeanDifference | None:
    """Difference of the means of repetitions that belong together, as runs of equal seeds do: a
    t-interval of the differences. None for fewer than two pairs, or differences without spread.

    Raises ``SettingError`` for sides of unequal length.
    """
    _check(a)
    _check(b)
    if len(a) != len(b):
        raise SettingError(f"paired values must match one to one: {len(a)} and {len(b)}")
    gaps = [left - right for left, right in zip(a, b, strict=True)]
    if len(gaps) < 2 or (deviation := _deviation(gaps)) == 0:
        return None
    error = deviation / math.sqrt(len(gaps))
    return _difference(fmean(gaps), error, len(gaps) - 1, "paired t", comparisons)


def _difference(
    value: float, error: float, freedom: float, test: str, comparisons: int
) -> MeanDifference:
    from scipy.special import stdtr  # the core works without scipy; loads faster than scipy.stats

    half = _t_quantile(1 - ALPHA / 2, freedom) * error
    return MeanDifference(
        value=value,
        low=value - half,
        high=value + half,
        p=float(2 * stdtr(freedom, -abs(value) / error)),
        test=test,
        freedom=float(freedom),
        detectable=error
        * (_t_quantile(1 - ALPHA / comparisons / 2, freedom) + _t_quantile(POWER, freedom)),
    )


def _deviation(values: Sequence[float]) -> float:
    """The sample's standard deviation; 0 where it is nothing but rounding."""
    found = stdev(values)
    return 0.0 if found <= 1e-12 * max(1.0, *map(abs, values)) else found


def _t_quantile(share: float, freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def _check(values: Sequence[float]) -> None:
    if not values or not all(map(math.isfinite, values)):
        raise SettingError(f"a mean needs one or more finite values, not {list(values)}")
