"""Methods over their training seeds: what the next run of each would give."""

import json
from collections.abc import Mapping, Sequence
from statistics import fmean

from lrat.config.catalogue import FOLD_OVERLAP, SPLIT_BY_SEED
from lrat.evaluation.comparison.seeds import (
    Mean,
    MeanDifference,
    mean_interval,
    paired_means,
    welch,
)
from lrat.evaluation.comparison.shared import WORST_CASE, image_error
from lrat.evaluation.comparison.words import written_p
from lrat.evaluation.statistics import ALPHA, holm, wilson
from lrat.experiments.report.group_words import listed
from lrat.reporting.report.collect.evaluations import Evaluated
from lrat.reporting.report.collect.runs import Collected

_LEAST_RUNS = 2

Worst = Mapping[int, Evaluated]
"""A method's evaluation of each training seed."""


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
            sentences += _compared(methods, folds=same[0].record.data == SPLIT_BY_SEED)
    return sentences


def _evaluated_as(each: Collected) -> str:
    """The same attacks on the same images, or on those that follow the seed."""
    first = each.evaluations[0]
    keys = ("suite", "threat", "attacks", "cascades", "noise")
    data = each.record.data
    images = "" if data == SPLIT_BY_SEED else first.record.group
    return json.dumps([data, images, *(first.identity.get(key) for key in keys)], sort_keys=True)


def _methods(runs: Sequence[Collected]) -> dict[str, Worst]:
    """By name, those with runs of several seeds; of a seed the first run."""
    found: dict[str, dict[int, Evaluated]] = {}
    first: dict[str, Collected] = {}
    for each in runs:
        key, seed = each.configuration, each.record.training_seed
        if key is not None and seed is not None:
            first.setdefault(key, each)
            found.setdefault(key, {}).setdefault(seed, each.evaluations[0])
    several = [key for key, worst in found.items() if len(worst) >= _LEAST_RUNS]
    plain = [first[key].record.method for key in several]
    return {
        # Of several configurations of one method, each with the name of its first run.
        name if plain.count(name) == 1 else f"{name} (as {first[key].record.name})": found[key]
        for key, name in zip(several, plain, strict=True)
    }


def _compared(methods: Mapping[str, Worst], *, folds: bool) -> list[str]:
    means = {name: _mean(worst, folds=folds) for name, worst in methods.items()}
    best, *others = sorted(methods, key=lambda name: -means[name].value)
    mean = means[best]
    ends = ""
    if mean.low is not None and mean.high is not None:
        basis = "Student's t, corrected for folds" if folds else "over seeds and images"
        ends = f" [{100 * max(mean.low, 0):.1f}, {100 * min(mean.high, 1):.1f}], {basis}"
    sentences = [
        f"Over {mean.n} training seeds, {best} has the best mean worst case: "
        f"{100 * mean.value:.1f} %{ends}."
    ]
    tests = {name: _difference(methods[best], methods[name], folds=folds) for name in others}
    known = {name: test for name, test in tests.items() if test is not None}
    adjusted = dict(zip(known, holm([test.p for test in known.values()]), strict=True))
    same = [name for name, p in adjusted.items() if p >= ALPHA]
    if same:
        sentences.append(f"{listed(same)} cannot be told apart from {best} over these seeds.")
    worse = [
        f"{name} by {100 * known[name].value:.1f} points (p {written_p(p)})"
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
