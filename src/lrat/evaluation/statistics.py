"""How far an accuracy can be trusted: Wilson's interval, paired differences, McNemar's test."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from lrat.errors import SettingError

ALPHA = 0.05
_Z = NormalDist().inv_cdf(1 - ALPHA / 2)
_BISECTIONS = 60


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """A share of ``n`` images as a fraction, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired difference of two shares, first minus second, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def wilson(successes: int, n: int) -> Proportion:
    """Wilson's score interval, 95 %, without continuity correction (Wilson 1927).

    Never leaves [0, 1] and stays honest at 0 and n successes, where the normal interval has width
    zero. Raises ``SettingError`` unless 0 <= successes <= n and n > 0.
    """
    if n < 1 or not 0 <= successes <= n:
        raise SettingError(f"wilson({successes}, {n}): needs 0 <= successes <= n and n >= 1")
    share = successes / n
    square = _Z * _Z
    center = share + square / (2 * n)
    half = _Z * math.sqrt((share * (1 - share) + square / (4 * n)) / n)
    scale = 1 + square / n
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-18.
    low = 0.0 if successes == 0 else (center - half) / scale
    high = 1.0 if successes == n else (center + half) / scale
    return Proportion(value=share, low=low, high=high, n=n)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p of McNemar's exact test: of the images on which two models differ, is either
    model right on more than half?

    ``only_a``: images that a alone gets right; ``only_b``: that b alone gets right. Under equality
    only_a is binomial(only_a + only_b, 1/2) (McNemar 1947, exact form). No such image: p = 1.
    """
    _check_counts(only_a, only_b, only_a + only_b)
    if only_a + only_b == 0:
        return 1.0
    from scipy.stats import binomtest  # the core works without scipy

    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def paired_difference(only_a: int, only_b: int, n: int) -> Difference:
    """Share of a minus share of b on the same ``n`` images, with Tango's 95 % score interval.

    All differences delta that the score test does not reject, with the nuisance parameter at its
    maximum-likelihood value under delta (Tango 1998, Statistics in Medicine 17:891-908). Keeps its
    level for small counts and stays in [-1, 1]. Near p = .05 it may exclude 0 while the exact
    McNemar test, which is the more careful one, does not reject.
    """
    _check_counts(only_a, only_b, n)
    value = (only_a - only_b) / n

    def excess(delta: float) -> float:
        return _tango_score(only_a, only_b, n, delta)

    low = -1.0 if only_b == n else _crossing(excess, _Z, -1.0, value)
    high = 1.0 if only_a == n else _crossing(excess, -_Z, value, 1.0)
    return Difference(value=value, low=low, high=high, n=n)


def _check_counts(only_a: int, only_b: int, n: int) -> None:
    if only_a < 0 or only_b < 0 or n < only_a + only_b:
        raise SettingError(
            f"counts of a paired comparison must be >= 0 and at most n: "
            f"only a {only_a}, only b {only_b}, n {n}"
        )


def _tango_score(only_a: int, only_b: int, n: int, delta: float) -> float:
    """Standardised distance between the observed difference and ``delta``; falls as delta rises.

    ``share`` is the likelihood's maximum over the probability that b alone is right, given delta:
    the larger root of 2n q^2 + linear q + constant = 0.
    """
    linear = (2 * n - only_a + only_b) * delta - only_a - only_b
    constant = -only_b * delta * (1 - delta)
    share = (math.sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * share + delta * (1 - delta))
    distance = only_a - only_b - n * delta
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _crossing(function: Callable[[float], float], level: float, low: float, high: float) -> float:
    """Where a falling function meets ``level`` between ``low`` and ``high``, by bisection."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if function(middle) > level:
            low = middle
        else:
            high = middle
    return (low + high) / 2
