"""Tables of runs against attacks, from the summaries that evaluations store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrat.reporting.report.records import WORST


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run's line: its name and its evaluation's ``summary.json``."""

    name: str
    summary: Mapping[str, Any]

    def cell(self, attack: str) -> str:
        """``45.2 [40.1, 50.4]`` in per cent, or a dash where the attack was not run."""
        share = self.share(attack)
        if share is None:
            return "–"
        value, low, high = (100 * share[key] for key in ("value", "low", "high"))
        return f"{value:.1f} [{low:.1f}, {high:.1f}]"

    def share(self, attack: str) -> Mapping[str, Any] | None:
        """Value, low, high (fractions) and n under one attack."""
        if attack == WORST:
            worst: Mapping[str, Any] = self.summary["worst_case"]
            return worst
        shares: Mapping[str, Mapping[str, Any]] = self.summary["accuracy"]
        return shares.get(attack)

    @property
    def attacks(self) -> list[str]:
        return list(self.summary["accuracy"])


def results_table(
    rows: Sequence[RunRow], extra: Mapping[str, Mapping[str, str]] | None = None
) -> list[list[str]]:
    """Header and one line per run: accuracy with its interval under each attack, the worst case.

    ``extra``: further columns, each a mapping from a run's name to its cell.
    """
    attacks: list[str] = []
    for row in rows:
        attacks += [name for name in row.attacks if name not in attacks]
    columns = [*attacks, WORST]
    extra = extra or {}
    header = ["", *columns, *extra]
    lines = [
        [
            row.name,
            *(row.cell(attack) for attack in columns),
            *(cells.get(row.name, "–") for cells in extra.values()),
        ]
        for row in rows
    ]
    return [header, *lines]
