"""Runs that may be compared, and what tests on the same images or over seeds say of them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean

import numpy as np

from lrat.config.catalogue import FOLD_OVERLAP, folds_by_seed
from lrat.errors import LratError
from lrat.evaluation.comparison.pairs import contrasts_of
from lrat.evaluation.comparison.seeds import (
    Mean,
    MeanDifference,
    mean_interval,
    paired_means,
    welch,
)
from lrat.evaluation.comparison.shared import WORST_CASE, image_error
from lrat.evaluation.statistics import ALPHA, Proportion, holm, wilson
from lrat.reporting.report.collect.evaluations import Evaluated
from lrat.reporting.report.collect.runs import Collected
from lrat.reporting.report.records import GroupRecord, Pair
from lrat.text import in_brackets, listed, percent, points_and_p

_MOST_RUNS = 16
"""Of more runs, every two are tested under the worst case alone."""
_MOST_PAIRED = 30
"""Of more runs, the best is tested against each: the pairs of 500 would be 124,750."""
TEST = (
    "Exact McNemar test on the same images; Holm's correction for the {pairs} under each attack, 5 "
    "% level. Intervals of the difference are Tango's, 95 %, not corrected. They are about these "
    "very models: whether the methods differ takes several seeds of each."
)

_LEAST_RUNS = 2

Worst = Mapping[int, Evaluated]
"""A method's evaluation of each training seed."""


def make_groups(
    runs: Mapping[str, Sequence[Evaluated]], seeds: Mapping[str, int | None]
) -> list[GroupRecord]:
    """The groups of ``runs`` (evaluations by the run's name), those of most runs first, of equal
    ones those that are compared first in more runs, at last as the runs were named. ``seeds``: of
    their training."""
    members: dict[str, dict[str, Evaluated]] = {}
    leading: dict[str, int] = {}
    for name, evaluations in runs.items():
        for index, each in enumerate(evaluations):
            members.setdefault(each.record.group, {})[name] = each
            leading[each.record.group] = leading.get(each.record.group, 0) + (index == 0)
    order = sorted(
        members,
        key=lambda key: (
            -len(members[key]),
            -leading[key],
            -max(len(each.record.attacks) for each in members[key].values()),
        ),
    )
    return [_group(key, members[key], seeds) for key in order]


def _group(
    key: str, members: Mapping[str, Evaluated], seeds: Mapping[str, int | None]
) -> GroupRecord:
    names = sorted(members, key=lambda name: (-members[name].record.worst_case.value, name))
    first = members[names[0]].record
    tested = [name for name in names if members[name].verdicts is not None]
    pairs = _pairs({name: members[name] for name in tested})
    trained = {seeds.get(name) for name in names}
    which = f" of seed {trained.pop()}" if folds_by_seed(first.data) and len(trained) == 1 else ""
    count = sum(each.contrast.name == WORST_CASE for each in pairs)
    many = len(tested) > _MOST_PAIRED
    against_best = f" Of more than {_MOST_PAIRED} runs the best is tested against each." * many
    return GroupRecord(
        key=key,
        title=f"{first.data}{which}, {first.images} images, {first.threat}, suite {first.suite}",
        runs=names,
        pairs=pairs,
        sentences=_sentences({name: members[name].record.worst_case for name in names}, pairs),
        test=TEST.format(pairs="one pair" if count == 1 else f"{count} pairs") + against_best
        if count
        else "",
    )


def _pairs(members: Mapping[str, Evaluated]) -> list[Pair]:
    """Every two, of many the first against each, under the worst case and every attack."""
    pairs: list[Pair] = []
    two_of_all: Iterable[tuple[str, str]] = combinations(members, 2)
    if len(members) > _MOST_PAIRED:
        best, *others = members
        two_of_all = ((best, other) for other in others)
    for one, two in two_of_all:
        a, b = members[one].verdicts, members[two].verdicts
        if a is None or b is None:
            continue
        if not np.array_equal(a.index, b.index) or not np.array_equal(a.label, b.label):
            raise LratError(f"{one} and {two} are not of the same images")
        rows = [WORST_CASE] if len(members) > _MOST_RUNS else list(a.standing)
        of_a, of_b = ({row: side.standing[row] for row in rows} for side in (a, b))
        pairs += [Pair(one, two, each) for each in contrasts_of(of_a, of_b, a.names[1:]).values()]
    tables: dict[str, list[float]] = {}
    for pair in pairs:
        tables.setdefault(pair.contrast.name, []).append(pair.contrast.p)
    adjusted = {row: iter(holm(p_values)) for row, p_values in tables.items()}
    return [
        Pair(
            one,
            two,
            replace(each, p_adjusted=next(adjusted[each.name]), rows=len(tables[each.name])),
        )
        for one, two, each in pairs
    ]


def _sentences(shares: Mapping[str, Proportion], pairs: Sequence[Pair]) -> list[str]:
    """The best by worst case, which runs do not differ significantly from it, and which do;
    ``shares``: of worst cases, the best first."""
    best = next(iter(shares))
    if len(shares) == 1:
        return [f"{best} is alone here: its worst case is {written_share(shares[best])}."]
    tied = [name for name in shares if shares[name].value == shares[best].value]
    if len(tied) > 1:
        sentences = [
            f"{listed(tied)} have the same worst case, the best: {written_share(shares[best])}."
        ]
    else:
        sentences = [f"{best} has the best worst case: {written_share(shares[best])}."]
    others = {
        other: contrast
        for one, other, contrast in pairs
        if one == best and contrast.name == WORST_CASE
    }
    same = [name for name, each in others.items() if not each.significant and name not in tied]
    worse = [
        f"{name} by {points_and_p(each.difference.value, each.p_of_verdict)}"
        for name, each in others.items()
        if each.significant
    ]
    if same:
        sentences.append(f"{_not_differing(same, best)} on {shares[best].n} images.")
    if worse:
        sentences.append(f"{best} is better than {listed(worse)}.")
    untested = [name for name in shares if name not in {best, *others}]
    if untested:
        sentences.append(f"{listed(untested)} could not be tested against {best}.")
    return sentences


def written_share(share: Proportion) -> str:
    """``65.5 % [58.7, 71.7] of 200 images``."""
    images = f"{share.n} image" if share.n == 1 else f"{share.n} images"
    return f"{percent(share.value)} {in_brackets(share.low, share.high)} of {images}"


def over_seeds(collected: Sequence[Collected]) -> list[str]:
    """Sentences on methods of which runs of several seeds were evaluated alike: the best mean worst
    case, and the tests of the others against it. None without two such methods."""
    alike: dict[str, list[Collected]] = {}
    for each in collected:
        if each.evaluations:
            alike.setdefault(_evaluated_as(each), []).append(each)
    sentences = []
    for same in alike.values():
        methods = _methods(same)
        if len(methods) > 1:
            sentences += _compared(methods, folds=folds_by_seed(same[0].record.data))
    return sentences


def _evaluated_as(each: Collected) -> str:
    """The same attacks on the same images, or on those that follow the seed."""
    first = each.evaluations[0]
    keys = ("suite", "threat", "attacks", "cascades", "noise")
    data = each.record.data
    images = "" if folds_by_seed(data) else first.record.group
    return json.dumps([data, images, *(first.identity.get(key) for key in keys)], sort_keys=True)


def _methods(runs: Sequence[Collected]) -> dict[str, Worst]:
    """By name, those with runs of several seeds; of a seed the first run."""
    by_seed: dict[str, dict[int, Evaluated]] = {}
    first: dict[str, Collected] = {}
    for each in runs:
        key, seed = each.configuration, each.record.training_seed
        if key is not None and seed is not None:
            first.setdefault(key, each)
            by_seed.setdefault(key, {}).setdefault(seed, each.evaluations[0])
    several = [key for key, worst in by_seed.items() if len(worst) >= _LEAST_RUNS]
    plain = [first[key].record.method for key in several]
    return {
        # Of several configurations of one method, each with the name of its first run.
        name if plain.count(name) == 1 else f"{name} (as {first[key].record.name})": by_seed[key]
        for key, name in zip(several, plain, strict=True)
    }


def _compared(methods: Mapping[str, Worst], *, folds: bool) -> list[str]:
    means = {name: _mean(worst, folds=folds) for name, worst in methods.items()}
    best, *others = sorted(methods, key=lambda name: -means[name].value)
    mean = means[best]
    ends = ""
    if mean.low is not None and mean.high is not None:
        basis = "Student's t, corrected for folds" if folds else "over seeds and images"
        ends = f" {in_brackets(max(mean.low, 0), min(mean.high, 1))}, {basis}"
    sentences = [
        f"Over {mean.n} training seeds, {best} has the best mean worst case: "
        f"{percent(mean.value)}{ends}."
    ]
    tests = {name: _difference(methods[best], methods[name], folds=folds) for name in others}
    known = {name: test for name, test in tests.items() if test is not None}
    adjusted = dict(zip(known, holm([test.p for test in known.values()]), strict=True))
    same = [name for name, p in adjusted.items() if p >= ALPHA]
    if same:
        sentences.append(f"{_not_differing(same, best)} over these seeds.")
    worse = [
        f"{name} by {points_and_p(known[name].value, p)}"
        for name, p in adjusted.items()
        if p < ALPHA
    ]
    if worse:
        sentences.append(f"{best} is better than {listed(worse)} over these seeds.")
    if known:
        kinds = " or ".join(sorted({test.test for test in known.values()}))
        sentences[-1] = f"{sentences[-1].rstrip('.')} ({kinds} test, Holm's correction)."
    return sentences


def _mean(worst: Worst, *, folds: bool) -> Mean:
    shares = _shares(worst)
    if folds:
        return mean_interval(shares, overlap=FOLD_OVERLAP)
    images = next(iter(worst.values())).record.images
    return mean_interval(shares, images=wilson(round(fmean(shares) * images), images))


def _difference(one: Worst, other: Worst, *, folds: bool) -> MeanDifference | None:
    """Paired where both have the same seeds; None where there is no spread to judge by."""
    test = paired_means if sorted(one) == sorted(other) else welch
    return test(
        _shares(one),
        _shares(other),
        overlap=FOLD_OVERLAP if folds else 0.0,
        image_error=0.0 if folds else _image_error(one, other),
    )


def _shares(worst: Worst) -> list[float]:
    """The shares of images that withstand every attack, by ascending seed."""
    return [worst[seed].record.worst_case.value for seed in sorted(worst)]


def _image_error(one: Worst, other: Worst) -> float:
    """Of runs on the same images; 0 where an evaluation's outcomes cannot be read."""
    verdicts = [[each.verdicts for each in side.values()] for side in (one, other)]
    known = [[each.standing[WORST_CASE] for each in side if each is not None] for side in verdicts]
    if [len(side) for side in known] != [len(one), len(other)]:
        return 0.0
    return image_error(*known)


def _not_differing(names: Sequence[str], best: str) -> str:
    do = "does" if len(names) == 1 else "do"
    return f"{listed(names)} {do} not differ significantly from {best}"
