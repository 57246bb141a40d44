"""Runs that may be compared, and what tests on the same images tell of every two of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from lrat.config.catalogue import SPLIT_BY_SEED
from lrat.errors import LratError
from lrat.evaluation.comparison.pairs import Contrast, contrasts_of
from lrat.evaluation.comparison.shared import WORST_CASE
from lrat.evaluation.statistics import ALPHA, holm
from lrat.experiments.report.group_words import GroupFindings, group_sentences
from lrat.reporting.report.collect.evaluations import Evaluated
from lrat.reporting.report.records import GroupRecord, PairRecord

_MOST_RUNS = 16
"""Of more runs, every two are tested under the worst case alone."""
_MOST_PAIRED = 30
"""Of more runs, the best is tested against each: the pairs of 500 would be 124,750."""
TEST = (
    "Exact McNemar test on the same images; Holm's correction for the {pairs} under each attack, 5 "
    "% level. Intervals of the difference are Tango's, 95 %, not corrected. They are about these "
    "very models: whether the methods differ takes several seeds of each."
)


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """A group's record, and what it found for the report's summary."""

    record: GroupRecord
    findings: GroupFindings


def make_groups(
    runs: Mapping[str, Sequence[Evaluated]], seeds: Mapping[str, int | None]
) -> list[Grouped]:
    """The groups of ``runs`` (evaluations by the run's name), those of most runs first, of equal
    ones those that are compared first in more runs, at last as the runs were named. ``seeds``: of
    their training."""
    members: dict[str, dict[str, Evaluated]] = {}
    leading: dict[str, int] = {}
    for name, evaluations in runs.items():
        for place, each in enumerate(evaluations):
            members.setdefault(each.record.group, {})[name] = each
            leading[each.record.group] = leading.get(each.record.group, 0) + (place == 0)
    order = sorted(
        members,
        key=lambda key: (
            -len(members[key]),
            -leading[key],
            -max(len(each.record.attacks) for each in members[key].values()),
        ),
    )
    return [_group(key, members[key], seeds) for key in order]


def _group(key: str, members: Mapping[str, Evaluated], seeds: Mapping[str, int | None]) -> Grouped:
    names = sorted(members, key=lambda name: (-members[name].record.worst_case.value, name))
    first = members[names[0]].record
    tested = [name for name in names if members[name].verdicts is not None]
    pairs = _pairs({name: members[name] for name in tested})
    trained = {seeds.get(name) for name in names}
    which = f" of seed {trained.pop()}" if first.data == SPLIT_BY_SEED and len(trained) == 1 else ""
    title = f"{first.data}{which}, {first.images} images, {first.threat}, suite {first.suite}"
    findings = GroupFindings(
        title=title,
        shares={name: members[name].record.worst_case for name in names},
        worst={(each.first, each.second): each for each in pairs if each.attack == WORST_CASE},
    )
    count = len(findings.worst)
    many = len(tested) > _MOST_PAIRED
    against_best = f" Of more than {_MOST_PAIRED} runs the best is tested against each." * many
    record = GroupRecord(
        key=key,
        title=title,
        runs=names,
        pairs=pairs,
        sentences=group_sentences(findings),
        test=TEST.format(pairs="one pair" if count == 1 else f"{count} pairs") + against_best
        if count
        else "",
    )
    return Grouped(record=record, findings=findings)


def _pairs(members: Mapping[str, Evaluated]) -> list[PairRecord]:
    """Every two, of many the first against each, under the worst case and every attack."""
    found: list[tuple[str, str, Contrast]] = []
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
        found += [(one, two, each) for each in contrasts_of(of_a, of_b, a.names[1:]).values()]
    adjusted: dict[tuple[str, str, str], float] = {}
    for row in dict.fromkeys(contrast.name for _, _, contrast in found):
        same = [each for each in found if each[2].name == row]
        corrected = holm([contrast.p for _, _, contrast in same])
        adjusted |= {(one, two, row): p for (one, two, _), p in zip(same, corrected, strict=True)}
    return [
        _record(one, two, contrast, adjusted[one, two, contrast.name])
        for one, two, contrast in found
    ]


def _record(one: str, two: str, contrast: Contrast, adjusted: float) -> PairRecord:
    return PairRecord(
        first=one,
        second=two,
        attack=contrast.name,
        difference=contrast.difference.value,
        low=contrast.difference.low,
        high=contrast.difference.high,
        p=contrast.p,
        p_adjusted=adjusted,
        distinguishable=adjusted < ALPHA,
    )
