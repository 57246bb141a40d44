"""Methods over their training seeds: what the next run of each would give."""

import json
from collections.abc import Mapping, Sequence
from statistics import fmean

from lrat.errors import LratError
from lrat.evaluation.comparison.grouping import compare_groups
from lrat.evaluation.comparison.groups import IMAGES, NO_TEST, Group, Run
from lrat.evaluation.comparison.means import Mean
from lrat.evaluation.comparison.shared import WORST_CASE
from lrat.evaluation.comparison.words import written_p
from lrat.evaluation.statistics import ALPHA, holm
from lrat.experiments.comparing import SPLIT_BY_SEED
from lrat.experiments.report.group_words import listed
from lrat.experiments.report.runs import Collected

_LEAST_RUNS = 2


def over_seeds(collected: Sequence[Collected]) -> list[str]:
    """Sentences on methods of which runs of several seeds were evaluated alike: the best mean worst
    case, and the tests of the others against it. None without two such methods."""
    alike: dict[str, list[Collected]] = {}
    for each in collected:
        if each.evaluations and each.configuration and each.evaluations[0].verdicts is not None:
            alike.setdefault(_evaluated_as(each), []).append(each)
    sentences = []
    for same in alike.values():
        methods = _methods(same)
        if len(methods) > 1:
            try:
                sentences += _compared(methods)
            except LratError as error:
                sentences.append(f"Methods are not compared over their seeds: {error}.")
    return sentences


def _evaluated_as(each: Collected) -> str:
    """The same attacks on the same images, or on those that follow the seed."""
    first = each.evaluations[0]
    keys = ("suite", "threat", "attacks", "cascades", "noise")
    data = each.record.data
    images = "" if data == SPLIT_BY_SEED else first.record.group
    return json.dumps([data, images, *(first.identity.get(key) for key in keys)], sort_keys=True)


def _methods(runs: Sequence[Collected]) -> list[list[Collected]]:
    """Runs of one configuration and several seeds; each seed once, the first of it."""
    found: dict[str, dict[int, Collected]] = {}
    for each in runs:
        if each.configuration is not None and each.record.training_seed is not None:
            seeds = found.setdefault(each.configuration, {})
            seeds.setdefault(each.record.training_seed, each)
    return [list(seeds.values()) for seeds in found.values() if len(seeds) >= _LEAST_RUNS]


def _compared(methods: Sequence[Sequence[Collected]]) -> list[str]:
    def mean(runs: Sequence[Collected]) -> float:
        return fmean(run.evaluations[0].record.worst_case.value for run in runs)

    best, *others = sorted(methods, key=mean, reverse=True)
    names = _names([best, *others])
    groups = [_group(name, runs) for name, runs in names.items()]
    comparison = compare_groups(groups)
    score = comparison.rows[0].scores[WORST_CASE]
    first = groups[0].name
    sentences = [
        f"Over {len(best)} training seeds, {first} has the best mean worst case: "
        f"{100 * score.value:.1f} %{_interval(score)}."
    ]
    tested = [
        each
        for each in comparison.contrasts
        if each.attack == WORST_CASE and each.basis not in {IMAGES, NO_TEST} and each.p is not None
    ]
    adjusted = holm([each.p for each in tested if each.p is not None])
    same = [each.group for each, p in zip(tested, adjusted, strict=True) if p >= ALPHA]
    if same:
        sentences.append(f"{listed(same)} cannot be told apart from {first} over these seeds.")
    worse = [
        f"{each.group} by {-100 * each.difference:.1f} points (p {written_p(p)})"
        for each, p in zip(tested, adjusted, strict=True)
        if p < ALPHA
    ]
    if worse:
        sentences.append(f"{first} is better than {listed(worse)} over these seeds.")
    tests = " or ".join(sorted({each.basis for each in tested}))
    if tests:
        sentences[-1] = f"{sentences[-1].rstrip('.')} ({tests} test, Holm's correction)."
    return sentences


def _interval(score: object) -> str:
    if not isinstance(score, Mean) or score.low is None or score.high is None:
        return ""
    return f" [{100 * score.low:.1f}, {100 * score.high:.1f}], Student's t"


def _names(methods: Sequence[Sequence[Collected]]) -> Mapping[str, Sequence[Collected]]:
    """By method; of several configurations of one, with the name of its first run."""
    plain = [runs[0].record.method for runs in methods]
    return {
        method if plain.count(method) == 1 else f"{method} (as {runs[0].record.name})": runs
        for method, runs in zip(plain, methods, strict=True)
    }


def _group(name: str, runs: Sequence[Collected]) -> Group:
    made = []
    for each in runs:
        verdicts = each.evaluations[0].verdicts
        if verdicts is not None:
            source = SPLIT_BY_SEED if each.record.data == SPLIT_BY_SEED else None
            made.append(
                Run(
                    name=each.record.name,
                    result=verdicts.as_one_attack(),
                    seed=each.record.training_seed,
                    source=source,
                )
            )
    return Group(name=name, runs=tuple(made))
