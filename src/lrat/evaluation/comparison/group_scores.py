"""Scores of groups of runs, and every group against the first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

import numpy as np
import numpy.typing as npt

from lrat.errors import DataError, SettingError
from lrat.evaluation.comparison.groups import (
    IMAGES,
    NO_TEST,
    Group,
    GroupComparison,
    GroupContrast,
    GroupRow,
    Run,
)
from lrat.evaluation.comparison.pairs import contrasts_of
from lrat.evaluation.comparison.seeds import (
    Mean,
    MeanDifference,
    mean_interval,
    paired_means,
    welch,
)
from lrat.evaluation.comparison.shared import (
    AVERAGE,
    Standing,
    common_images,
    image_error,
    mean_difference,
    shared_attacks,
    standing,
)
from lrat.evaluation.statistics import (
    Proportion,
    holm,
    mean_proportion,
    sign_flip,
    smallest_detectable,
    wilson,
)


def compare_groups(groups: Sequence[Group], *, comparisons: int | None = None) -> GroupComparison:
    """Scores of every group, and every group against the first.

    Two groups of two runs or more are compared over training seeds: by a paired t-test where their
    seeds are the same, else by Welch's, joined with the error over images where all runs test the
    same and corrected where seeds are folds; other groups over the images that all runs have.
    ``comparisons``: of the table that this is a part of, for ``detectable``; None: there are no
    others. Raises ``SettingError`` where threats or attacks differ, and ``DataError`` where runs
    that need the same images have others.
    """
    if not groups:
        raise SettingError("a comparison needs at least one group of runs")
    runs = [run for group in groups for run in group.runs]
    attacks = shared_attacks([run.result for run in runs], [run.name for run in runs])
    scored = _score(runs, attacks)
    sides = [_Side(group=group, scores=[scored[id(run)] for run in group.runs]) for group in groups]
    count = (len(sides) - 1) * len(sides[0].rows) if comparisons is None else comparisons
    contrasts = [
        _contrast(row, side, sides[0], attacks, count)
        for side in sides[1:]
        for row in sides[0].rows
    ]
    return GroupComparison(
        rows=tuple(side.row() for side in sides),
        contrasts=adjusted(contrasts),
        threat=runs[0].result.threat,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scored:
    """A run's standing on the images that all runs of its data have. ``data``: which these are."""

    seed: int | None
    data: str
    overlap: float
    standing: Standing
    attacks: int

    @property
    def images(self) -> int:
        return len(next(iter(self.standing.values())))

    def accuracy(self, row: str) -> float:
        """Share of images; in the average, of images times attacks."""
        most = self.attacks if row == AVERAGE else 1
        return float(self.standing[row].sum()) / (most * self.images)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
    group: Group
    scores: Sequence[_Scored]

    @property
    def rows(self) -> list[str]:
        return list(self.scores[0].standing)

    @cached_property
    def by_seed(self) -> list[_Scored]:
        return sorted(self.scores, key=lambda run: -1 if run.seed is None else run.seed)

    def paired_with(self, other: "_Side") -> bool:
        """Whether both have a run of each seed that either has."""
        seeds = [run.seed for run in self.by_seed]
        return None not in seeds and seeds == [run.seed for run in other.by_seed]

    def accuracies(self, row: str) -> list[float]:
        """By ascending seed."""
        return [run.accuracy(row) for run in self.by_seed]

    def row(self) -> GroupRow:
        images = [run.images for run in self.scores]
        return GroupRow(
            name=self.group.name,
            runs=tuple(run.name for run in self.group.runs),
            seeds=self.group.seeds,
            images=(min(images), max(images)),
            scores={row: self._score(row) for row in self.rows},
        )

    def _score(self, row: str) -> Mean | Proportion:
        if len({run.data for run in self.scores}) > 1:
            return _inside(mean_interval(self.accuracies(row), overlap=_overlap(self.scores)))
        first = self.scores[0]
        rows = self.rows[1 : 1 + first.attacks] if row == AVERAGE else [row]
        means = [fmean(self.accuracies(each)) for each in rows]
        images = [wilson(round(mean * first.images), first.images) for mean in means]
        over_images = mean_proportion(images) if row == AVERAGE else images[0]
        if len(self.scores) == 1:
            return over_images
        return _inside(mean_interval(self.accuracies(row), images=over_images))


def _score(runs: Sequence[Run], attacks: Sequence[str]) -> dict[int, _Scored]:
    """Each run on the images common to the runs of the same data."""
    by_data: dict[str, list[Run]] = {}
    for run in runs:
        by_data.setdefault(_data_of(run), []).append(run)
    if len(by_data) > 1:
        _check_splits(runs)
    scored = {}
    for data, same in by_data.items():
        images = common_images([run.result for run in same], [run.name for run in same])
        for run in same:
            scored[id(run)] = _Scored(
                seed=run.seed,
                data=data,
                overlap=run.overlap,
                standing=standing(run.result, attacks, images),
                attacks=len(attacks),
            )
    return scored


def _data_of(run: Run) -> str:
    return str(run.result.identity.get("data"))


def _check_splits(runs: Sequence[Run]) -> None:
    """Different images are splits of one data set, the same for the same seed, or an error."""
    first = runs[0]
    by_seed: dict[int | None, Run] = {}
    for run in runs:
        other = by_seed.setdefault(run.seed, run)
        if run.source is None or run.source != first.source:
            other = first
        elif _data_of(run) == _data_of(other):
            continue
        if _data_of(run) != _data_of(other) or run.source != other.source:
            raise DataError(
                f"the data differ ({_data_of(other)} in {other.name}, {_data_of(run)} in "
                f"{run.name}): evaluate all on the same"
            )


def _contrast(
    row: str, side: _Side, first: _Side, attacks: Sequence[str], comparisons: int
) -> GroupContrast:
    pairs = _pairs(side, first)
    p_images = _p_over_images(row, side.scores, first.scores) if pairs else None
    over_seeds = _over_seeds(row, side, first, comparisons)
    plain = GroupContrast(
        group=side.group.name,
        first=first.group.name,
        attack=row,
        difference=fmean(side.accuracies(row)) - fmean(first.accuracies(row)),
        low=None,
        high=None,
        basis=NO_TEST,
        p=None,
        detectable=None,
        size=f"{len(side.scores)} and {len(first.scores)} runs",
        p_images=p_images,
    )
    if over_seeds is not None:
        return replace(
            plain,
            low=over_seeds.low,
            high=over_seeds.high,
            basis=over_seeds.test,
            p=over_seeds.p,
            detectable=min(over_seeds.detectable, 1.0),
        )
    if not pairs:
        return plain
    contrasts = [contrasts_of(a.standing, b.standing, attacks)[row] for a, b in pairs]
    difference = mean_difference([each.difference for each in contrasts])
    n = min(each.a.n for each in contrasts)
    differing = min(n, max(each.only_a + each.only_b for each in contrasts))
    return replace(
        plain,
        low=difference.low,
        high=difference.high,
        basis=IMAGES,
        p=p_images,
        detectable=smallest_detectable(differing, n, comparisons=comparisons),
        size=f"n = {n}",
    )


def _pairs(side: _Side, first: _Side) -> list[tuple[_Scored, _Scored]]:
    """Pairs of runs on the same images whose mean difference is that of the groups; or none."""
    if len({run.data for run in (*side.scores, *first.scores)}) == 1:
        return [(a, b) for a in side.scores for b in first.scores]
    if side.paired_with(first):
        return list(zip(side.by_seed, first.by_seed, strict=True))
    return []


def _over_seeds(row: str, side: _Side, first: _Side, comparisons: int) -> MeanDifference | None:
    test = paired_means if side.paired_with(first) else welch
    return test(
        side.accuracies(row),
        first.accuracies(row),
        comparisons=comparisons,
        overlap=_overlap([*side.scores, *first.scores]),
        image_error=_image_error(row, side.scores, first.scores),
    )


def _overlap(runs: Sequence[_Scored]) -> float:
    """The runs' own where they are several folds; none where all train and test on one split."""
    return runs[0].overlap if len({run.data for run in runs}) > 1 else 0.0


def _image_error(row: str, a: Sequence[_Scored], b: Sequence[_Scored]) -> float:
    """The standard error over images of the difference of two groups' mean accuracies; 0 where not
    all runs test the same images: then the spread over runs holds it already."""
    if len({run.data for run in (*a, *b)}) > 1:
        return 0.0
    most = a[0].attacks if row == AVERAGE else 1
    return image_error(*([run.standing[row] for run in side] for side in (a, b))) / most


def _p_over_images(row: str, a: Sequence[_Scored], b: Sequence[_Scored]) -> float:
    """The sign-flip test over images: on each, how often a's runs withstand against b's.

    Counts are weighed with the other side's number of runs, so that equal shares cancel; images of
    different data are different images.
    """
    scores: list[npt.NDArray[np.int64]] = []
    for data in sorted({run.data for run in a}):
        of_a = [run.standing[row] for run in a if run.data == data]
        of_b = [run.standing[row] for run in b if run.data == data]
        scores.append(len(of_b) * np.sum(of_a, axis=0) - len(of_a) * np.sum(of_b, axis=0))
    return sign_flip(np.concatenate(scores))


def adjusted(contrasts: Sequence[GroupContrast]) -> tuple[GroupContrast, ...]:
    """With Holm's correction for all of them: of each contrast's own test, and of those over
    images."""
    p_values = _holm_of_known([contrast.p for contrast in contrasts])
    over_images = _holm_of_known([contrast.p_images for contrast in contrasts])
    return tuple(
        replace(contrast, p_adjusted=p, p_images_adjusted=images)
        for contrast, p, images in zip(contrasts, p_values, over_images, strict=True)
    )


def _holm_of_known(p_values: Sequence[float | None]) -> list[float | None]:
    adjusted = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]


def _inside(mean: Mean) -> Mean:
    """Without what lies outside [0, 1], where no accuracy is."""
    if mean.low is None or mean.high is None:
        return mean
    return replace(mean, low=max(mean.low, 0.0), high=min(mean.high, 1.0))
