"""The paper's Tables 1 and 2 from the evidence of finished runs: scores, tests, costs, masking."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.config.catalogue import FOLD_OVERLAP
from lrat.evaluation import Group, Run, compare_groups
from lrat.evaluation.comparison.group_scores import adjusted
from lrat.evaluation.comparison.groups import GroupContrast
from lrat.evaluation.comparison.shared import WORST_CASE
from lrat.reproduce.evidence import Cost, Evidence, SeededShare, mean_of_all, over_seeds
from lrat.reproduce.paper import PaperRow
from lrat.reproduce.presets import method_of, reference_of


@dataclass(frozen=True, kw_only=True)
class RowMasking:
    """What the masking panels said: how many of a row's ``panels`` had each ``status``, and in how
    many each check was not passed."""

    panels: int
    statuses: Mapping[str, int]
    checks: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class TableRow:
    """A row of ours: scores by column over its seeds, and the ``paper``'s in per cent."""

    name: str
    seeds: tuple[int, ...]
    scores: Mapping[str, SeededShare]
    cost: Cost
    masking: RowMasking | None
    paper: PaperRow | None
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """``columns``: natural, attacks, worst case. ``contrasts``: every row against its reference
    (``rows.reference_of``) by column, on the seeds that both have; their p values are adjusted for
    all of them (Holm). ``missing``: rows of the table that were not run. ``lacking``, ``failed``:
    runs that could not be used, and why.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    contrasts: tuple[GroupContrast, ...]
    source: str | None
    threat: str
    missing: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def contrast(self, row: str, column: str) -> GroupContrast | None:
        """This row against its reference in this column; None where they share no seed."""
        contrasts = (each for each in self.contrasts if (each.group, each.attack) == (row, column))
        return next(contrasts, None)

    @property
    def same_images(self) -> bool:
        """Whether all seeds test the same images."""
        return self.source is None

    def row(self, name: str) -> TableRow:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    def reference(self, name: str) -> TableRow | None:
        """The row that this one was compared with; None for one without a comparison."""
        references = (self.row(each.first) for each in self.contrasts if each.group == name)
        return next(references, None)

    @property
    def epochs(self) -> tuple[int, ...]:
        """Of the weights that were attacked, ascending."""
        return tuple(sorted({run.epoch for row in self.rows for run in row.evidence}))

    def record(self) -> dict[str, Any]:
        """Plain values for JSON: shares and differences are fractions, the paper's per cent."""
        return {
            "table": self.name,
            "epochs": list(self.epochs),
            "threat": self.threat,
            "interval": "95 %; the basis says of what",
            "columns": list(self.columns),
            "rows": [_row_record(row) for row in self.rows],
            "contrasts": [
                {**asdict(each), "verdict": each.verdict, "words": each.words}
                for each in self.contrasts
            ],
            "missing": list(self.missing),
            "lacking": list(self.lacking),
            "failed": list(self.failed),
        }


def make_table(
    name: str,
    evidence: Mapping[str, Sequence[Evidence]],
    paper: Mapping[str, PaperRow],
    *,
    source: str | None,
    reference: str | None = None,
    tested: Sequence[str] | None = None,
    missing: Sequence[str] = (),
    lacking: Sequence[str] = (),
    failed: Sequence[str] = (),
) -> Table:
    """A table of rows (in order) that all were attacked with the same suite.

    ``source``: the name of a data set whose test images follow the seed; None where all are tested
    on the same. ``reference``: the row that all others are compared with, None for each row's own
    (``reference_of``); ``tested``: the columns in which they are, None for all.
    """
    first = next((runs[0].results for runs in evidence.values()), ())
    names = dict.fromkeys(attack for result in first for attack in result.names)
    columns = (*names, WORST_CASE) if first else ()
    rows = [
        TableRow(
            name=row,
            seeds=tuple(run.seed for run in runs),
            scores={
                column: over_seeds(
                    [count_right(run, column) for run in runs], same_images=source is None
                )
                for column in columns
            },
            cost=_cost(runs),
            masking=_masking(runs),
            paper=paper.get(method_of(row)),
            evidence=tuple(runs),
        )
        for row, runs in evidence.items()
    ]
    bases = {row: reference or reference_of(row, evidence) for row in evidence}
    pairs = [
        (evidence.get(base, ()), evidence[row])
        for row, base in bases.items()
        if base is not None and base != row
    ]
    return Table(
        name=name,
        columns=columns,
        rows=tuple(rows),
        contrasts=_contrasts(pairs, columns if tested is None else tested, source),
        source=source,
        threat=first[0].threat if first else "",
        missing=tuple(missing),
        lacking=tuple(lacking),
        failed=tuple(failed),
    )


def _contrasts(
    pairs: Iterable[tuple[Sequence[Evidence], Sequence[Evidence]]],
    columns: Sequence[str],
    source: str | None,
) -> tuple[GroupContrast, ...]:
    """The second runs of each pair against the first by column; those of pairs without a common
    seed are left out. p values are adjusted (Holm), and ``detectable`` allows, for all of them."""
    compared = [(base, runs) for base, runs in pairs if _common_seeds(base, runs)]
    comparisons = len(compared) * len(columns)
    return adjusted(
        [
            contrast
            for base, runs in compared
            for contrast in _contrasts_with(base, runs, columns, source, comparisons)
        ]
    )


def _common_seeds(base: Sequence[Evidence], runs: Sequence[Evidence]) -> list[int]:
    """The seeds that both have, ascending: those on which they can be compared."""
    return sorted({run.seed for run in base} & {run.seed for run in runs})


def _contrasts_with(
    base: Sequence[Evidence],
    runs: Sequence[Evidence],
    columns: Sequence[str],
    source: str | None,
    comparisons: int,
) -> list[GroupContrast]:
    """``runs`` against ``base`` by column, on the seeds that both have and the same images."""
    common = _common_seeds(base, runs)
    by_column: dict[str, GroupContrast] = {}
    levels = len(runs[0].results)
    for level in range(levels):
        groups = [
            Group(
                name=side[0].row,
                runs=tuple(
                    Run(
                        name=run.folder.name,
                        result=run.results[level],
                        seed=run.seed,
                        source=source,
                        overlap=0.0 if source is None else FOLD_OVERLAP,
                    )
                    for run in side
                    if run.seed in common
                ),
            )
            for side in (base, runs)
        ]
        for contrast in compare_groups(groups, comparisons=comparisons).contrasts:
            # The worst case is that over the whole suite.
            if contrast.attack != WORST_CASE or level == levels - 1:
                by_column.setdefault(contrast.attack, contrast)
    return [by_column[column] for column in columns if column in by_column]


def between_epochs(early: Table, late: Table) -> dict[tuple[str, str], GroupContrast]:
    """By row and column, the later epoch minus the earlier one of the same runs; adjusted (Holm)
    for all of them."""
    before = {row.name: row.evidence for row in early.rows}
    pairs = [(before.get(row.name, ()), row.evidence) for row in late.rows]
    contrasts = _contrasts(pairs, late.columns, late.source)
    return {(each.group, each.attack): each for each in contrasts}


def count_right(run: Evidence, column: str) -> tuple[int, int]:
    """How many images of how many this run gets right."""
    if column == WORST_CASE:
        result = run.results[-1]
        right: npt.NDArray[np.bool_] = result.robust(result.names)
    else:
        held = run.result_with(column)
        if held is None:
            raise KeyError(column)
        right = held.robust([column])
    return int(right.sum()), len(right)


def _cost(runs: Sequence[Evidence]) -> Cost:
    return Cost(
        forwards=mean_of_all([run.cost.forwards for run in runs], len(runs)),
        backwards=mean_of_all([run.cost.backwards for run in runs], len(runs)),
        seconds=sum(run.cost.seconds for run in runs) / len(runs),
    )


def _masking(runs: Sequence[Evidence]) -> RowMasking | None:
    panels = [run.masking for run in runs if run.masking is not None]
    if not panels:
        return None
    statuses: dict[str, int] = {}
    checks: dict[str, int] = {}
    for panel in panels:
        statuses[panel.status] = statuses.get(panel.status, 0) + 1
        for check in panel.checks:
            if check.status in {"suspicious", "failed"}:
                checks[check.name] = checks.get(check.name, 0) + 1
    return RowMasking(panels=len(panels), statuses=statuses, checks=checks)


def _row_record(row: TableRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "seeds": list(row.seeds),
        "scores": {column: asdict(share) for column, share in row.scores.items()},
        "cost": asdict(row.cost),
        "masking": None if row.masking is None else asdict(row.masking),
        "paper": None if row.paper is None else asdict(row.paper),
        "runs": [_run_record(run, row) for run in row.evidence],
    }


def _run_record(run: Evidence, row: TableRow) -> dict[str, Any]:
    counts = {column: count_right(run, column) for column in row.scores}
    return {
        "seed": run.seed,
        "folder": run.folder.name,
        "method": run.config.method.name,
        "checkpoint": run.checkpoint,
        "epoch": run.epoch,
        "right": {column: {"images": right, "of": n} for column, (right, n) in counts.items()},
        "cost": asdict(run.cost),
        "masking": None if run.masking is None else run.masking.status,
        "environment": {
            key: run.environment.get(key)
            for key in ("lrat", "commit", "torch", "device", "processor", "threads")
        },
    }
