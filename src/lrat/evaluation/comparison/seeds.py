"""How far a mean over repetitions can be trusted: Student's t over training seeds.

A repetition is a whole run, so these intervals hold for what the next run would give; intervals
over images (``statistics``) hold for the one model that was measured. Repetitions that all test the
same images know nothing of others, so the images' interval is joined: half-widths add up in
squares, as those of independent effects do (Zou & Donner 2008).

``overlap``: test images by training images of one repetition, where repetitions are folds of one
data set. Folds share training images, so their spread is smaller than that of new data: the
variance of a mean of J is then s^2 (1 / J + overlap) instead of s^2 / J (Nadeau & Bengio 2003, the
corrected resampled t-test). 0 where no repetition trains on what another one tests on.

The same model under the same attacks with other noise: how much an accuracy owes to its seed.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import DataError, SettingError
from lrat.evaluation.comparison.shared import WORST_CASE, attacks_of
from lrat.evaluation.outcomes import NATURAL
from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.statistics import ALPHA, POWER, Proportion, crossing, percent, wilson
from lrat.evaluation.storage.store import differences
from lrat.text import aligned


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of ``n`` repetitions, the ends of its 95 % interval, their standard deviation.

    One value says nothing about the next, and neither do values without any spread, if nothing is
    known of images: then ``low`` and ``high`` are None, and for one value so is ``deviation``.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    deviation: float | None


@dataclass(frozen=True, kw_only=True)
class MeanDifference:
    """Mean of a minus mean of b with its 95 % interval and the two-sided p of the same test.

    ``test``: "paired t" or "Welch", for folds "corrected t" or "corrected Welch"; ``freedom``: its
    degrees of freedom; ``detectable``: the least difference that so many repetitions with this
    spread would show in four of five cases.
    """

    value: float
    low: float
    high: float
    p: float
    test: str
    freedom: float
    detectable: float


def mean_interval(
    values: Sequence[float], *, overlap: float = 0.0, images: Proportion | None = None
) -> Mean:
    """Student's t-interval, 95 %, of repetitions such as one configuration's accuracies over
    training seeds; joined with the mean's interval over ``images``, where all repetitions test the
    same ones. Raises ``SettingError`` for no values and for values that are not finite."""
    _check(values)
    n, value = len(values), fmean(values)
    deviation = _deviation(values) if n > 1 else None
    if images is None and not deviation:
        return Mean(value=value, low=None, high=None, n=n, deviation=deviation)
    half = 0.0
    if deviation:
        half = _t_quantile(1 - ALPHA / 2, n - 1) * deviation * math.sqrt(1 / n + overlap)
    below = above = half
    if images is not None:
        below = math.hypot(half, images.value - images.low)
        above = math.hypot(half, images.high - images.value)
    return Mean(value=value, low=value - below, high=value + above, n=n, deviation=deviation)


def welch(
    a: Sequence[float],
    b: Sequence[float],
    *,
    comparisons: int = 1,
    overlap: float = 0.0,
    image_error: float = 0.0,
) -> MeanDifference | None:
    """Difference of the means of independent repetitions, with variances of their own (Welch 1947).

    ``comparisons``: how many the table holds, for ``detectable`` alone, as in
    ``smallest_detectable``. ``image_error``: the standard error of the difference over the images,
    where all repetitions test the same ones and their spread knows nothing of others: half-widths
    are added in squares (Zou & Donner 2008), and p is the level at which the interval reaches 0.
    None where nothing can be said: fewer than two values on a side, or no spread on either.
    """
    _check(a)
    _check(b)
    if min(len(a), len(b)) < 2:
        return None
    parts = [_deviation(side) ** 2 * (1 / len(side) + overlap) for side in (a, b)]
    variance = sum(parts)
    if variance == 0:
        return None
    # Welch-Satterthwaite.
    freedom = variance**2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (a, b), strict=True)
    )
    return _difference(
        fmean(a) - fmean(b),
        _Error(seeds=math.sqrt(variance), freedom=freedom, images=image_error),
        "corrected Welch" if overlap else "Welch",
        comparisons,
    )


def paired_means(
    a: Sequence[float],
    b: Sequence[float],
    *,
    comparisons: int = 1,
    overlap: float = 0.0,
    image_error: float = 0.0,
) -> MeanDifference | None:
    """Difference of the means of repetitions that belong together, as runs of equal seeds do: a
    t-interval of the differences; ``comparisons`` and ``image_error`` as in ``welch``. None for
    fewer than two pairs, or differences without spread.

    Raises ``SettingError`` for sides of unequal length.
    """
    _check(a)
    _check(b)
    if len(a) != len(b):
        raise SettingError(f"paired values must match one to one: {len(a)} and {len(b)}")
    gaps = [left - right for left, right in zip(a, b, strict=True)]
    if len(gaps) < 2 or (deviation := _deviation(gaps)) == 0:
        return None
    return _difference(
        fmean(gaps),
        _Error(
            seeds=deviation * math.sqrt(1 / len(gaps) + overlap),
            freedom=len(gaps) - 1,
            images=image_error,
        ),
        "corrected t" if overlap else "paired t",
        comparisons,
    )


@dataclass(frozen=True, kw_only=True)
class _Error:
    """The standard errors of a difference over seeds and over images."""

    seeds: float
    freedom: float
    images: float

    def half(self, level: float) -> float:
        """The half-width of the two-sided interval that misses with probability ``level``."""
        over_images = NormalDist().inv_cdf(1 - level / 2) * self.images if self.images else 0.0
        return math.hypot(_t_quantile(1 - level / 2, self.freedom) * self.seeds, over_images)

    def p(self, value: float) -> float:
        """The level at which the interval around ``value`` reaches 0."""
        from scipy.special import stdtr  # the core works without it; faster than scipy.stats

        if not self.images:
            return float(2 * stdtr(self.freedom, -abs(value) / self.seeds))
        return crossing(self.half, abs(value), 1e-15, 1.0)


def _difference(value: float, error: _Error, test: str, comparisons: int) -> MeanDifference:
    half = error.half(ALPHA)
    return MeanDifference(
        value=value,
        low=value - half,
        high=value + half,
        p=error.p(value),
        test=test,
        freedom=float(error.freedom),
        detectable=error.half(ALPHA / comparisons) + error.half(2 * (1 - POWER)),
    )


def _deviation(values: Sequence[float]) -> float:
    """The sample's standard deviation; 0 where it is nothing but rounding."""
    deviation = stdev(values)
    return 0.0 if deviation <= 1e-12 * max(1.0, *map(abs, values)) else deviation


def _t_quantile(share: float, freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def _check(values: Sequence[float]) -> None:
    if not values or not all(map(math.isfinite, values)):
        raise SettingError(f"a mean needs one or more finite values, not {list(values)}")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Accuracy under one attack with several seeds; all are fractions.

    ``values``: one per seed, in the order of ``AttackSeedSpread.seeds``; ``mean``: with their
    standard deviation and a t-interval over attack seeds; ``over_seeds``: the share of images that
    withstand the attack with every seed, at most the least value, since other seeds fool other
    images.
    """

    name: str
    values: tuple[float, ...]
    mean: Mean
    over_seeds: Proportion

    @property
    def least(self) -> float:
        return min(self.values)

    @property
    def most(self) -> float:
        return max(self.values)


@dataclass(frozen=True, kw_only=True)
class AttackSeedSpread:
    """``spreads`` by name: natural, the attacks, and the worst case over all of these."""

    spreads: dict[str, Spread]
    seeds: tuple[int, ...]
    n: int
    threat: str

    def __str__(self) -> str:
        """A table in per cent; deviations in percentage points."""
        header = ("attack", "mean %", "deviation", "least", "most", "all seeds %", "95 % interval")
        rows = [
            (
                spread.name,
                f"{100 * spread.mean.value:.2f}",
                f"{100 * (spread.mean.deviation or 0.0):.2f}",
                f"{100 * spread.least:.2f}",
                f"{100 * spread.most:.2f}",
                *percent(spread.over_seeds),
            )
            for spread in self.spreads.values()
        ]
        seeds = ", ".join(map(str, self.seeds))
        return (
            f"{aligned([header, *rows])}\n"
            f"n {self.n}, {self.threat}, attack seeds {seeds}; deviation: standard deviation over "
            "the seeds;\nall seeds: right under every seed, with Wilson's interval over the images"
        )

    def record(self) -> dict[str, Any]:
        """All of it as plain values for JSON; shares are fractions."""
        spreads = {
            name: {**asdict(spread), "least": spread.least, "most": spread.most}
            for name, spread in self.spreads.items()
        }
        return {
            "threat": self.threat,
            "images": self.n,
            "attack_seeds": list(self.seeds),
            "spreads": spreads,
        }


def attack_seed_spread(results: Sequence[EvaluationResult]) -> AttackSeedSpread:
    """How far one model's accuracies differ between attack seeds, and what all seeds leave.

    Every result is of the same model, data, suite and images, with a seed of its own. Raises
    ``SettingError`` for fewer than two results, for a seed that occurs twice, and for identities
    that differ in more than the seed (with the difference); ``DataError`` for other images.
    """
    if len(results) < 2:
        raise SettingError("a spread over attack seeds needs evaluations with two seeds or more")
    first = results[0]
    for other in results[1:]:
        _check_same(first, other)
    seeds = tuple(result.seed for result in results)
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise SettingError(f"attack seed {twice[0]} occurs twice: evaluate with another --seed")
    rows = {name: [name] for name in (NATURAL, *attacks_of(first))}
    rows[WORST_CASE] = list(rows)
    return AttackSeedSpread(
        spreads={
            row: _spread(row, [result.robust(names) for result in results])
            for row, names in rows.items()
        },
        seeds=seeds,
        n=len(first.index),
        threat=first.threat,
    )


def _spread(name: str, robust: Sequence[npt.NDArray[np.bool_]]) -> Spread:
    values = tuple(float(each.mean()) for each in robust)
    always = np.logical_and.reduce(robust)
    return Spread(
        name=name,
        values=values,
        mean=mean_interval(values),
        over_seeds=wilson(int(always.sum()), len(always)),
    )


def _check_same(first: EvaluationResult, other: EvaluationResult) -> None:
    same_seed = {**other.identity, "seed": first.seed}
    differing = list(differences(first.identity, same_seed))
    if differing:
        raise SettingError(
            f"the evaluations differ in more than the attack seed ({'; '.join(differing)}): "
            "evaluate one model with one suite"
        )
    if not np.array_equal(first.index, other.index):
        raise DataError(
            f"the evaluations hold other images ({len(first.index)} and {len(other.index)}): "
            "evaluate with one --limit"
        )
