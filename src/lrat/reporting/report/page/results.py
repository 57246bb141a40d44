"""The page's tables: runs against attacks and each other, masking panels, settings that differ."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lrat.config.sections import leaves
from lrat.evaluation.comparison.pairs import Contrast
from lrat.evaluation.comparison.shared import WORST_CASE
from lrat.evaluation.masking.panel import FROM_BEST, Check, Panel, Status
from lrat.evaluation.statistics import Proportion
from lrat.files.read import parse_yaml
from lrat.reporting.report.records import (
    EvaluationRecord,
    GroupRecord,
    Pair,
    ReportRecord,
    RunRecord,
)
from lrat.text import cut

WORST_FIRST = FROM_BEST[::-1]
MEANING: Mapping[Status, str] = {
    "passed": "nothing speaks for masking",
    "suspicious": "above what is usual: read the sentence before trusting the accuracy",
    "failed": "the attacks fail rather than the model being robust: do not report the accuracy",
    "not run": "the check could not run here",
}

_UNSET = "–"
_LONGEST = 60


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One evaluated run of a group. ``shares``: by column, None where the attack was not run.
    ``standing``: against the best worst case of the group."""

    index: int
    run: RunRecord
    evaluation: EvaluationRecord
    shares: Sequence[Proportion | None]
    standing: str = ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Row minus column of a matrix; ``contrast`` is None on the diagonal and where nothing is
    known. ``sign``: the row is better (1), worse (-1), or not significantly different (0)."""

    contrast: Contrast | None
    difference: float = 0.0
    low: float = 0.0
    high: float = 0.0
    sign: int = 0
    diagonal: bool = False


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Every run of a group against every other, of many against the best alone, under one attack:
    ``cells[row][column]``, ``columns`` by name."""

    attack: str
    columns: Sequence[str]
    cells: Sequence[Sequence[Cell]]


@dataclass(frozen=True, kw_only=True)
class GroupTable:
    """What the page shows of a group. ``title``: unlike every other's. ``columns``: attacks in
    order, the worst case last."""

    index: int
    group: GroupRecord
    title: str
    columns: Sequence[str]
    rows: Sequence[ResultRow]
    matrices: Sequence[Matrix] = ()

    @property
    def corrected(self) -> bool:
        """Whether p values are corrected for the number of pairs."""
        return any(pair.contrast.p_adjusted is not None for pair in self.group.pairs)

    @property
    def notes(self) -> list[str]:
        """What the evaluations say about themselves, each once."""
        return list(dict.fromkeys(note for row in self.rows for note in row.evaluation.notes))

    @property
    def images(self) -> list[str]:
        """How many images were tested: one number, as the group met the same ones."""
        return [f"{n:,}" for n in sorted({row.evaluation.images for row in self.rows})]

    @property
    def threats(self) -> list[str]:
        """The threats of the evaluations: one, as far as they may be compared."""
        return list(dict.fromkeys(row.evaluation.threat for row in self.rows))

    @property
    def stages(self) -> list[str]:
        """The attacks whose stages some row knows."""
        return [name for name in self.columns if self.stages_of(name)]

    def stages_of(self, attack: str) -> list[str]:
        """The stages of a cascade that some row knows, in order."""
        attacks = [each for row in self.rows for each in row.evaluation.attacks]
        return list(
            dict.fromkeys(name for each in attacks if each.name == attack for name in each.stages)
        )


def group_tables(report: ReportRecord) -> list[GroupTable]:
    """A table for every group that holds an evaluated run of the report."""
    tables = []
    titles: Counter[str] = Counter()
    for index, group in enumerate(report.groups):
        titles[group.title] += 1
        again = titles[group.title]
        title = group.title if again == 1 else f"{group.title} ({again})"
        tables.append(_table(index, group, title, report))
    return [table for table in tables if table.rows]


def without_group(report: ReportRecord) -> list[tuple[int, RunRecord]]:
    """The runs, with their indices, that no table of results shows."""
    shown = {row.index for table in group_tables(report) for row in table.rows}
    return [(index, run) for index, run in enumerate(report.runs) if index not in shown]


def _table(index: int, group: GroupRecord, title: str, report: ReportRecord) -> GroupTable:
    indices = {run.name: k for k, run in enumerate(report.runs)}
    members: list[tuple[int, RunRecord, EvaluationRecord]] = []
    for name in group.runs:
        if name not in indices:
            continue
        run = report.runs[indices[name]]
        of_group = [each for each in run.evaluations if each.group == group.key]
        members += [(indices[name], run, each) for each in of_group[:1]]
    attacks = list(dict.fromkeys(attack.name for _, _, each in members for attack in each.attacks))
    top = members[0][2].worst_case.value if members else 0.0
    best = [run.name for _, run, each in members if each.worst_case.value == top]
    rows = [
        ResultRow(
            index=k,
            run=run,
            evaluation=each,
            shares=_shares(each, attacks),
            standing=_standing(run.name, best, group.pairs) if len(members) > 1 else "",
        )
        for k, run, each in members
    ]
    compared = [run.name for _, run, _ in members]
    known = dict.fromkeys(pair.contrast.name for pair in group.pairs)
    ordered = sorted(known, key=lambda attack: attack != WORST_CASE)
    return GroupTable(
        index=index,
        group=group,
        title=title,
        columns=[*attacks, WORST_CASE],
        rows=rows,
        matrices=[_matrix(attack, compared, group.pairs) for attack in ordered],
    )


def _shares(evaluation: EvaluationRecord, attacks: Sequence[str]) -> list[Proportion | None]:
    known = {each.name: each.share for each in evaluation.attacks}
    return [*(known.get(name) for name in attacks), evaluation.worst_case]


def _standing(name: str, best: Sequence[str], pairs: Sequence[Pair]) -> str:
    """``best``: those of the best worst case, the one that others are compared with first."""
    if name in best:
        return "best"
    for pair in pairs:
        of_both = {pair.first, pair.second} == {name, best[0]}
        if of_both and pair.contrast.name == WORST_CASE:
            return "" if pair.contrast.significant else "no significant difference from the best"
    return ""


def _matrix(attack: str, names: Sequence[str], pairs: Sequence[Pair]) -> Matrix:
    known = {
        (first, second): contrast for first, second, contrast in pairs if contrast.name == attack
    }
    firsts = {first for first, _ in known}
    columns = list(firsts) if len(firsts) == 1 and len(names) > 2 else names
    return Matrix(
        attack=attack,
        columns=columns,
        cells=[[_cell(row, column, known) for column in columns] for row in names],
    )


def _cell(row: str, column: str, known: Mapping[tuple[str, str], Contrast]) -> Cell:
    if row == column:
        return Cell(contrast=None, diagonal=True)
    contrast = known.get((row, column)) or known.get((column, row))
    if contrast is None:
        return Cell(contrast=None)
    value, low, high = (getattr(contrast.difference, end) for end in ("value", "low", "high"))
    if (row, column) not in known:
        value, low, high = -value, -high, -low
    sign = (1 if value > 0 else -1) if contrast.significant else 0
    return Cell(contrast=contrast, difference=value, low=low, high=high, sign=sign)


@dataclass(frozen=True, kw_only=True)
class PanelColumn:
    """One run's panel, and what the page says of it."""

    run: RunRecord
    panel: Panel

    @property
    def checks(self) -> dict[str, Check]:
        """By name."""
        return {check.name: check for check in self.panel.checks}

    @property
    def worst_first(self) -> list[Check]:
        """The checks in the order in which they matter."""
        return sorted(self.checks.values(), key=lambda each: WORST_FIRST.index(each.status))

    @property
    def counts(self) -> list[tuple[Status, int]]:
        """How many checks ended with each status, the worst first; only what occurs."""
        return list(Counter(check.status for check in self.worst_first).items())


@dataclass(frozen=True, kw_only=True)
class MaskingTable:
    """Every check of any run, and every run that has a panel."""

    names: Sequence[str]
    columns: Sequence[PanelColumn]
    meaning: Mapping[Status, str]


def masking_table(report: ReportRecord) -> MaskingTable:
    """The panels of a report; without any the table is empty."""
    columns = [PanelColumn(run=run, panel=run.masking) for run in report.runs if run.masking]
    names = dict.fromkeys(name for column in columns for name in column.checks)
    return MaskingTable(names=list(names), columns=columns, meaning=MEANING)


def differing_settings(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Every setting whose values differ, as ``training.lr``, with each run's value as text.

    A configuration that is no YAML mapping counts as empty; runs without one are left out by the
    caller. One run differs from none.
    """
    settings = [_flat(run.config) for run in runs]
    names = dict.fromkeys(name for each in settings for name in each)
    table = [(name, [each.get(name, _UNSET) for each in settings]) for name in names]
    return [(name, values) for name, values in table if len(set(values)) > 1]


def _flat(text: str) -> dict[str, str]:
    try:
        loaded = parse_yaml(text)
    except ValueError:
        return {}
    if not isinstance(loaded, Mapping):
        return {}
    return {
        name: _UNSET if value is None else cut(str(value), _LONGEST)
        for name, value in leaves(loaded)
    }
