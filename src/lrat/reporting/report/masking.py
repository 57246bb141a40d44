"""Masking panels of all runs beside each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lrat.reporting.report.records import CheckRecord, CheckStatus, ReportRecord, RunRecord

WORST_FIRST: tuple[CheckStatus, ...] = ("failed", "suspicious", "not run", "passed")
MEANING: Mapping[CheckStatus, str] = {
    "passed": "nothing speaks for masking",
    "suspicious": "above what is usual: read the sentence before trusting the accuracy",
    "failed": "the attacks fail rather than the model stands: do not report the accuracy",
    "not run": "could not be asked here",
}


@dataclass(frozen=True, kw_only=True)
class PanelColumn:
    """One run's panel: its checks by name, and how many there are of each status."""

    place: int
    run: RunRecord
    status: CheckStatus
    n: int
    checks: Mapping[str, CheckRecord]

    @property
    def worst_first(self) -> list[CheckRecord]:
        """The checks in the order in which they matter."""
        return sorted(self.checks.values(), key=lambda each: WORST_FIRST.index(each.status))

    @property
    def counts(self) -> list[tuple[CheckStatus, int]]:
        """How many checks ended with each status, the worst first; only what occurs."""
        found = [each.status for each in self.checks.values()]
        return [(status, found.count(status)) for status in WORST_FIRST if status in found]


@dataclass(frozen=True, kw_only=True)
class MaskingTable:
    """Every check asked of any run, and every run that has a panel."""

    names: Sequence[str]
    columns: Sequence[PanelColumn]
    meaning: Mapping[CheckStatus, str]


def masking_table(report: ReportRecord) -> MaskingTable:
    """The panels of a report; without any the table is empty."""
    columns = [
        PanelColumn(
            place=place,
            run=run,
            status=run.masking.status,
            n=run.masking.n,
            checks={check.name: check for check in run.masking.checks},
        )
        for place, run in enumerate(report.runs)
        if run.masking is not None
    ]
    names = dict.fromkeys(name for column in columns for name in column.checks)
    return MaskingTable(names=list(names), columns=columns, meaning=MEANING)
