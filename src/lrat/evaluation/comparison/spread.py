"""The same model under the same attacks with other noise: how much an accuracy owes to its seed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import DataError, SettingError
from lrat.evaluation.comparison.seeds import Mean, mean_interval
from lrat.evaluation.comparison.shared import WORST_CASE, attacks_of
from lrat.evaluation.outcomes import NATURAL
from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.statistics import Proportion, percent, wilson
from lrat.evaluation.storage.store import differences
from lrat.text import aligned


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


def _spread(name: str, stands: Sequence[npt.NDArray[np.bool_]]) -> Spread:
    values = tuple(float(each.mean()) for each in stands)
    always = np.logical_and.reduce(stands)
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
