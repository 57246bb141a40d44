"""Sets of the most vulnerable images, their overlap, and rank correlations of views."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import SettingError

Values = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
_MOST_EXACT = 50
"""Three sets of this size can overlap in a hundred thousand ways."""


@dataclass(frozen=True, kw_only=True)
class Chance:
    """The mean Jaccard index of independent sets of these sizes.

    ``low`` and ``high`` bound it for 95 % of such sets (None where not computed). ``how``:
    ``exact``, or the name of the approximation.
    """

    jaccard: float
    low: float | None
    high: float | None
    how: str


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Sets of ``sizes`` among ``n`` images: ``shared`` lie in all, ``union`` in at least one."""

    n: int
    sizes: tuple[int, ...]
    shared: int
    union: int
    jaccard: float
    chance: Chance

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "sizes": list(self.sizes)}


def size_of(share: float, n: int) -> int:
    """The size of a top set of ``n`` images: round(share * n), at least 1.

    Raises ``SettingError`` unless 0 < share < 1.
    """
    if not 0 < share < 1:
        raise SettingError(f"top={share:g}: the most vulnerable share must lie in (0, 1), as 0.2")
    return max(1, round(share * n))


def most_vulnerable(values: Values, size: int, *ties: Values) -> Mask:
    """[N]: whether an image is among the ``size`` with the smallest ``values`` [N].

    Ties are broken by ``ties`` [N] in turn, smaller first, and then by position: images are in
    ascending order of their numbers.
    """
    order = np.lexsort((*reversed(ties), values))  # stable
    mask = np.zeros(len(values), dtype=bool)
    mask[order[:size]] = True
    return mask


def cut(values: Values, size: int) -> dict[str, float | int]:
    """The largest value in a top set of ``size``, and the numbers of images below it and at it.

    Where more images have this value than the set takes, the set depends on the rule for ties.
    """
    edge = np.sort(values)[size - 1]
    below, at = int((values < edge).sum()), int((values == edge).sum())
    return {
        "value": float(edge),
        "below": below,
        "at": at,
        "taken_at": size - below,
        "distinct": len(np.unique(values)),
    }


def overlap(*sets: Mask) -> Overlap:
    """The Jaccard index of two or more sets [N], and that of independent sets.

    The latter is exact (hypergeometric) for two sets, and for three of up to 50 images each. For
    others it is the ratio of the expected intersection to the expected union, whose relative error
    falls as 1 / n.
    """
    n = len(sets[0])
    shared = int(np.logical_and.reduce(sets).sum())
    union = int(np.logical_or.reduce(sets).sum())
    sizes = tuple(int(each.sum()) for each in sets)
    return Overlap(
        n=n,
        sizes=sizes,
        shared=shared,
        union=union,
        jaccard=_ratio(shared, union),
        chance=_chance(n, sizes),
    )


@cache
def chance_of_two(n: int, first: int, second: int) -> Chance:
    """The exact mean of |A n B| / |A u B| over random sets of these sizes among ``n`` images.

    |A n B| is hypergeometric and the ratio a function of it, so its quantiles are exact too.
    """
    shared = np.arange(max(0, first + second - n), min(first, second) + 1)
    law = _hypergeometric(shared, n, first, second)
    union = first + second - shared
    ratios = np.divide(shared, union, out=np.zeros(len(shared)), where=union > 0)
    ends = np.searchsorted(law.cumsum(), [0.025, 0.975]).clip(max=len(shared) - 1)
    low, high = ratios[ends].tolist()
    return Chance(jaccard=float(law @ ratios), low=low, high=high, how="exact")


def _hypergeometric(
    shared: npt.NDArray[np.int64], n: int, first: int, second: int
) -> npt.NDArray[np.float64]:
    """The probabilities of all possible numbers ``shared`` (ascending, without gaps), each from the
    previous one: scipy's function takes a hundred times as long on thousands of images."""
    previous = shared[:-1].astype(np.float64)
    ratio = (first - previous) * (second - previous)
    ratio /= (previous + 1) * (n - first - second + previous + 1)
    logs = np.append(0.0, np.log(ratio).cumsum())
    powers = np.exp(logs - logs.max())
    law: npt.NDArray[np.float64] = powers / powers.sum()
    return law


def _chance(n: int, sizes: Sequence[int]) -> Chance:
    if len(sizes) == 2:
        return chance_of_two(n, *sizes)
    if len(sizes) == 3 and max(sizes) <= _MOST_EXACT:
        return Chance(jaccard=_mean_of_three(n, *sizes), low=None, high=None, how="exact")
    shares = np.array(sizes) / n
    mean = _ratio(float(shares.prod()), float(1 - (1 - shares).prod()))
    how = "ratio of expectations, relative error of order 1/n"
    return Chance(jaccard=mean, low=None, high=None, how=how)


def _mean_of_three(n: int, first: int, second: int, third: int) -> float:
    """The exact mean of |A n B n C| / |A u B u C|: over ``both`` = |A n B|, ``all_`` = |A n B n C|
    and ``one``, the number of images in C that are in A or B alone."""
    from scipy.stats import hypergeom

    both = np.arange(min(first, second) + 1)[:, None, None]
    all_ = np.arange(third + 1)[None, :, None]
    one = np.arange(third + 1)[None, None, :]
    either = first + second - both
    possible = (both >= first + second - n) & (all_ <= both) & (all_ + one <= third)
    chance = hypergeom.pmf(both, n, first, second) * hypergeom.pmf(all_, n, both, third)
    rest = np.where(possible, third - all_, 0)
    chance = chance * hypergeom.pmf(one, n - both, either - both, rest)
    union = np.maximum(either + third - all_ - one, 1)
    return float(np.where(possible, np.nan_to_num(chance) * all_ / union, 0.0).sum())


def jaccard_of_random_ties(values: Values, size: int, other: Mask) -> float:
    """The exact expected Jaccard index of ``other`` with the top set of ``values`` if ties were
    broken at random, which shows the influence of the rule for ties on an overlap."""
    from scipy.stats import hypergeom

    edge = np.sort(values)[size - 1]
    below, at = values < edge, values == edge
    drawn = size - int(below.sum())
    certain, possible = int((below & other).sum()), int((at & other).sum())
    more = np.arange(min(drawn, possible) + 1)
    shared = certain + more
    union = size + int(other.sum()) - shared
    return float((hypergeom.pmf(more, int(at.sum()), possible, drawn) * shared / union).sum())


def correlations(first: Values, second: Values) -> dict[str, float | None]:
    """Spearman's rho and Kendall's tau-b of two views [N]; None where one of them is constant."""
    from scipy.stats import kendalltau, spearmanr

    if len(np.unique(first)) < 2 or len(np.unique(second)) < 2:
        return {"spearman": None, "kendall": None}
    return {
        "spearman": float(spearmanr(first, second).statistic),
        "kendall": float(kendalltau(first, second).statistic),
    }


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
