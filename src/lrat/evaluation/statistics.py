"""Intervals and tests of accuracies over images; ``comparison.seeds`` has those over seeds."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from lrat.errors import SettingError
from lrat.text import SMALLEST_P

ALPHA = 0.05
POWER = 0.8
"""A difference counts as detectable if four of five such comparisons find it significant."""
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

    It lies in [0, 1] and has a width at 0 and n successes, where the normal interval has none.
    Raises ``SettingError`` unless 0 <= successes <= n and n > 0.
    """
    if n < 1 or not 0 <= successes <= n:
        raise SettingError(f"wilson({successes}, {n}): needs 0 <= successes <= n and n >= 1")
    share = successes / n
    square = _Z * _Z
    center = share + square / (2 * n)
    half = _Z * math.sqrt((share * (1 - share) + square / (4 * n)) / n)
    scale = 1 + square / n
    # Exactly 0 and 1 at the ends, where rounding would give 1e-18.
    low = 0.0 if successes == 0 else (center - half) / scale
    high = 1.0 if successes == n else (center + half) / scale
    return Proportion(value=share, low=low, high=high, n=n)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p of McNemar's exact test: of the images on which two models differ, is either
    model right on more than half?

    ``only_a``: images that a alone classifies correctly; ``only_b``: those that b alone does. Under
    equality only_a is binomial(only_a + only_b, 1/2) (McNemar 1947, exact form). Without such
    images p = 1.
    """
    _check_counts(only_a, only_b, only_a + only_b)
    if only_a + only_b == 0:
        return 1.0
    from scipy.special import bdtr  # the core works without scipy; loads faster than scipy.stats

    # Two equal tails.
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def sign_flip(scores: npt.NDArray[np.integer]) -> float:
    """Two-sided p of the exact paired randomisation test (Fisher 1935): the probability of a sum at
    least as far from 0 if on every image the two models' scores were exchanged at random.

    ``scores`` [n]: integers, the score of a minus that of b on each image, as the number of attacks
    under which a is robust minus that of b. With scores -1, 0, 1 alone this is McNemar's exact
    test. The distribution of the sum is computed by convolution, with rounding errors up to 1e-12,
    so ``SMALLEST_P`` is returned as the bound of smaller p.
    """
    sizes, counts = np.unique(np.abs(scores[scores != 0]).astype(np.int64), return_counts=True)
    if len(sizes) < 2:
        return mcnemar(int((scores > 0).sum()), int((scores < 0).sum()))
    from scipy.signal import fftconvolve
    from scipy.stats import binom

    divisor = int(np.gcd.reduce(sizes))
    positive = int(scores[scores > 0].sum()) // divisor
    chances = np.ones(1)
    for size, count in zip((sizes // divisor).tolist(), counts.tolist(), strict=True):
        sums = np.zeros(size * count + 1)
        sums[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = fftconvolve(chances, sums)
    total = len(chances) - 1
    distance = np.abs(2 * np.arange(total + 1) - total)
    tail = chances[distance >= abs(2 * positive - total)].sum()
    return float(np.clip(tail, SMALLEST_P, 1.0))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of one table adjusted for their number, in their order (Holm 1979).

    The k-th smallest is multiplied by the number of those not smaller, and is at least the adjusted
    value of the one before. With a limit of .05 after this, the probability of any false claim in
    the whole table is at most 5 %, however the rows depend on each other.
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise SettingError(f"p values lie in [0, 1]: {list(p_values)}")
    adjusted = [0.0] * len(p_values)
    least = 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, row in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[row]))
        adjusted[row] = least
    return adjusted


def smallest_detectable(differing: int, n: int, *, comparisons: int = 1) -> float:
    """The smallest difference of two accuracies, as a fraction, detectable on ``n`` common images.

    ``differing``: images on which exactly one of the two is right. Connor's approximation (1987,
    Biometrics 43:207-211) to McNemar's test with power .8: the delta for which sqrt(n) delta =
    z_(1 - level/2) sqrt(s) + z_.8 sqrt(s - delta^2) with s = differing / n. Where no delta <= s
    satisfies this because too few images differ, s is delta itself, the most favourable case. The
    level is .05 / ``comparisons``, which Holm's correction requires of the smallest p of a table.
    The exact test's power at this delta is a few points below .8.
    """
    if not 0 <= differing <= n or n < 1 or comparisons < 1:
        raise SettingError(
            f"smallest_detectable({differing}, {n}, comparisons={comparisons}): needs 0 <= "
            "differing <= n, n >= 1 and comparisons >= 1"
        )
    level, power = _quantile(1 - ALPHA / comparisons / 2), _quantile(POWER)
    share = differing / n

    def lacking(delta: float) -> float:
        differ = max(share, delta)
        spread = level * math.sqrt(differ) + power * math.sqrt(max(differ - delta * delta, 0.0))
        return spread - delta * math.sqrt(n)

    return 1.0 if lacking(1.0) > 0 else crossing(lacking, 0.0, 0.0, 1.0)


def _quantile(share: float) -> float:
    return NormalDist().inv_cdf(share)


def paired_difference(only_a: int, only_b: int, n: int) -> Difference:
    """Share of a minus share of b on the same ``n`` images, with Tango's 95 % score interval.

    All differences delta that the score test does not reject, with the nuisance parameter at its
    maximum-likelihood value under delta (Tango 1998, Statistics in Medicine 17:891-908). It has its
    level for small counts too and lies in [-1, 1]. Near p = .05 it may exclude 0 while the exact
    McNemar test, which is more conservative, does not reject.
    """
    _check_counts(only_a, only_b, n)
    value = (only_a - only_b) / n

    def excess(delta: float) -> float:
        return _tango_score(only_a, only_b, n, delta)

    low = -1.0 if only_b == n else crossing(excess, _Z, -1.0, value)
    high = 1.0 if only_a == n else crossing(excess, -_Z, value, 1.0)
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


def crossing(function: Callable[[float], float], level: float, low: float, high: float) -> float:
    """The point between ``low`` and ``high`` where a falling function equals ``level``, by
    bisection."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if function(middle) > level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def mean_proportion(shares: Sequence[Proportion]) -> Proportion:
    """The mean of shares of the same images; its ends are the means of theirs, so that the interval
    is never too narrow: the standard deviation of a mean is at most the mean of theirs."""
    return Proportion(
        value=mean_of(share.value for share in shares),
        low=mean_of(share.low for share in shares),
        high=mean_of(share.high for share in shares),
        n=shares[0].n,
    )


def mean_of(values: Iterable[float]) -> float:
    """The arithmetic mean of at least one number."""
    every = list(values)
    return sum(every) / len(every)


def percent(share: Proportion) -> tuple[str, str]:
    """``("45.20", "42.13 - 48.30")``."""
    return f"{100 * share.value:.2f}", f"{100 * share.low:.2f} - {100 * share.high:.2f}"
