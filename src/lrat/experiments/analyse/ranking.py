"""Which attack is strongest on which model, from stored evaluations (the paper's Figure 2)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lrat.errors import ConfigurationError
from lrat.evaluation import EvaluationResult
from lrat.evaluation.outcomes import NATURAL
from lrat.evaluation.statistics import (
    ALPHA,
    Difference,
    Proportion,
    holm,
    mcnemar,
    paired_difference,
    percent,
    wilson,
)
from lrat.runs.folder import checkpoint_of, one_of_each, read_config, run_of
from lrat.text import aligned, written_p

_Fooled: TypeAlias = Mapping[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class RankedAttack:
    """An attack on the images that are right when clean.

    ``fooled``: the share of them that it fools. ``accuracy``: of all images, as evaluations give
    it. ``mean_margin``: of the logit margins (Eq. 6) that it leaves. ``behind``: the share that the
    strongest attack fools minus its own, paired on the same images, and ``p`` of McNemar's exact
    test of that, Holm-adjusted over all pairs of attacks; None for the strongest. ``ensemble``: it
    contains other attacks, as AutoAttack, so that it is no rival of theirs.
    """

    name: str
    rank: int
    fooled: Proportion
    accuracy: Proportion
    mean_margin: float
    behind: Difference | None
    p: float | None
    ensemble: bool

    @property
    def tied(self) -> bool:
        """Whether these images do not tell it from the strongest attack."""
        return self.p is None or self.p >= ALPHA


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Attacks on one model, the strongest first, ensembles last.

    ``n``: images right when clean, out of ``images``. ``ties``: pairs of attacks that these images
    do not tell apart. Intervals and tests are over images: seeds are another question.
    """

    name: str
    data: str
    method: str
    checkpoint: str
    threat: str
    suite: str
    images: int
    n: int
    attacks: tuple[RankedAttack, ...]
    ties: tuple[tuple[str, str], ...]

    @property
    def strongest(self) -> tuple[str, ...]:
        """The first attack and those not significantly weaker, without ensembles."""
        rivals = [each for each in self.attacks if not each.ensemble] or list(self.attacks)
        return tuple(each.name for each in rivals if each.tied)

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; shares are fractions, intervals 95 %."""
        return {
            **{name: value for name, value in vars(self).items() if name != "attacks"},
            "ties": [list(pair) for pair in self.ties],
            "strongest": list(self.strongest),
            "attacks": [{**asdict(each), "tied": each.tied} for each in self.attacks],
        }

    def __str__(self) -> str:
        """A row per attack, in per cent."""
        rows = [("attack", "fooled %", "95 % interval", "behind %", "p", "mean margin")]
        for each in self.attacks:
            behind = "" if each.behind is None else f"{100 * each.behind.value:.2f}"
            p = "" if each.p is None else written_p(each.p)
            kind = " (ensemble)" if each.ensemble else ""
            cells = (*percent(each.fooled), behind, p, f"{each.mean_margin:.3f}")
            rows.append((f"{each.name}{kind}", *cells))
        about = (
            f"{self.method} on {self.data} ({self.checkpoint}), {self.threat}: n {self.n} right "
            f"when clean of {self.images}; p: McNemar, Holm over all pairs"
        )
        return f"{aligned(rows)}\n{about}"


def rank(
    result: EvaluationResult,
    *,
    name: str = "",
    data: str = "",
    method: str = "",
    checkpoint: str = "",
) -> Ranking:
    """The attacks of an evaluation by the share of images that they fool, out of those that are
    right when clean: on the others no attack does anything.

    Raises ``ConfigurationError`` for an evaluation without attacks or without such an image.
    """
    names = list(result.names[1:])
    if not names:
        raise ConfigurationError(f"{name}: the evaluation ran no attack: choose another suite")
    index = result.index
    right = ~result.outcomes.under(NATURAL).at(index).fooled
    n = int(right.sum())
    if not n:
        raise ConfigurationError(
            f"{name}: no image is right when clean, so attacks cannot be ranked: train longer"
        )
    rows = {each: result.outcomes.under(each).at(index).select(right) for each in names}
    fooled = {each: row.fooled for each, row in rows.items()}
    rivals = [each for each in names if each not in result.stages] or names
    order = sorted(rivals, key=lambda each: -int(fooled[each].sum()))  # stable: the suite's order
    order += [each for each in names if each not in rivals]
    tests = _tests(rivals, fooled)
    first = order[0]
    attacks = tuple(
        RankedAttack(
            name=each,
            rank=rank,
            fooled=wilson(int(fooled[each].sum()), n),
            accuracy=result.accuracy[each],
            mean_margin=float(rows[each].margin.mean()),
            behind=None if each == first else _difference(fooled[first], fooled[each]),
            p=tests.get(frozenset((first, each))),
            ensemble=each not in rivals,
        )
        for rank, each in enumerate(order, start=1)
    )
    return Ranking(
        name=name,
        data=data,
        method=method,
        checkpoint=checkpoint,
        threat=result.threat,
        suite=result.suite,
        images=len(index),
        n=n,
        attacks=attacks,
        ties=tuple(pair for pair in combinations(rivals, 2) if tests[frozenset(pair)] >= ALPHA),
    )


def rank_places(paths: Sequence[Path], *, suite: str | None = None) -> list[Ranking]:
    """The ranking of each path, in their order: of a run by the evaluation that all runs have or
    that ``suite`` names, or of an evaluation folder.

    Raises ``LratError`` in one line for what cannot be ranked.
    """
    return [rank_folder(folder) for folder in one_of_each(paths, suite)]


def rank_folder(folder: Path) -> Ranking:
    """The ranking of one finished evaluation, named by its run's configuration."""
    home = run_of(folder)
    config = None if home is None else read_config(home)
    return rank(
        EvaluationResult.from_folder(folder),
        name=folder.name if home is None else home.name,
        data=config.data.name if config else "",
        method=config.method.name if config else "",
        checkpoint=checkpoint_of(folder),
    )


def rankings_table(rankings: Sequence[Ranking]) -> str:
    """A row per model: its attacks from the strongest on, ``=`` between those that do not differ
    significantly."""
    rows = [("model", "data", "n", "attacks, strongest first (fooled %)")]
    for ranking in rankings:
        ties = {frozenset(pair) for pair in ranking.ties}
        rivals = [each for each in ranking.attacks if not each.ensemble]
        words = ""
        for before, each in zip([None, *rivals], rivals, strict=False):
            if before is not None:
                words += " = " if frozenset((before.name, each.name)) in ties else " > "
            words += f"{each.name} ({100 * each.fooled.value:.1f})"
        rows.append((f"{ranking.name} {ranking.checkpoint}", ranking.data, str(ranking.n), words))
    return aligned(rows)


def _tests(names: Sequence[str], fooled: _Fooled) -> dict[frozenset[str], float]:
    """Holm-adjusted p of McNemar's exact test for every pair of attacks."""
    pairs = list(combinations(names, 2))
    raw = [mcnemar(*_only(fooled[one], fooled[other])) for one, other in pairs]
    return {frozenset(pair): p for pair, p in zip(pairs, holm(raw), strict=True)}


def _only(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> tuple[int, int]:
    return int((one & ~other).sum()), int((other & ~one).sum())


def _difference(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> Difference:
    return paired_difference(*_only(one, other), len(one))
