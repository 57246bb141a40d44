"""The paper's rows as configurations, and its numbers beside which ours are shown."""

from collections.abc import Mapping
from dataclasses import dataclass

from lrat.errors import UnknownNameError
from lrat.evaluation import NATURAL

FIGURES: Mapping[str, str] = {
    "figure1": "GAIRAT's weights; test accuracy per epoch under PGD and CW, SAT and GAIRAT",
    "figure2": "the ranking of attacks over data sets, SAT, TRADES and their early-stopped models",
    "figure3": "t-SNE of SAT's outputs: where views agree on the most vulnerable images",
    "figure4": "the idea of local reweighting, from real images",
    "figure5": "V_PGD and V_CW of the GAIRAT model, and the most vulnerable images of either view",
    "figure6": "test accuracy per epoch of GAIRAT's weighting with CW as the simulated attack",
}
PARTS: Mapping[str, str] = {"figure1": "abc", "figure3": "abcd", "figure5": "abcdef"}


PAPER_COLUMNS: Mapping[str, str] = {
    NATURAL: "natural",
    "pgd-20": "pgd",
    "cw-20": "cw",
    "autoattack": "autoattack",
}
"""Our columns, and the paper's of the same attack."""


@dataclass(frozen=True)
class PaperRow:
    """Test accuracy in per cent: CIFAR-10, ResNet-18, L_inf 8/255."""

    natural: float
    pgd: float
    cw: float
    autoattack: float

    def under(self, column: str) -> float | None:
        """In a column of ours; None in one that the paper has not."""
        return getattr(self, PAPER_COLUMNS[column]) if column in PAPER_COLUMNS else None


def papers_difference(row: PaperRow | None, base: PaperRow | None, column: str) -> float | None:
    """``row`` minus ``base`` in a column of ours; None for one row, and where a number lacks."""
    if row is None or base is None or row is base or column not in PAPER_COLUMNS:
        return None
    name = PAPER_COLUMNS[column]
    return float(getattr(row, name) - getattr(base, name))


TABLE_1: Mapping[str, PaperRow] = {
    "sat": PaperRow(83.17, 51.14, 49.95, 46.12),
    "gairat": PaperRow(79.69, 60.82, 38.69, 32.14),
    "lsat-cw": PaperRow(80.40, 50.49, 52.03, 45.26),
    "lsat-saa": PaperRow(81.58, 55.04, 51.84, 46.95),
    "lrat-cw": PaperRow(79.65, 50.01, 54.27, 45.09),
    "lrat-saa": PaperRow(81.02, 54.49, 51.05, 47.34),
    "lrat-saa+cw": PaperRow(80.69, 53.56, 52.02, 46.67),
}
TABLE_2: Mapping[str, PaperRow] = {
    "gd+cw": PaperRow(79.40, 58.12, 42.95, 36.09),
    "gd+saa": PaperRow(80.47, 58.55, 41.05, 40.71),
    "lrat-saa+cw": TABLE_1["lrat-saa+cw"],
    "saa+cw+gd": PaperRow(80.13, 57.28, 45.15, 38.47),
}


def whole_and_part(name: str) -> tuple[str, str]:
    """``figure3b`` is ("figure3", "b"); ``UnknownNameError`` for what the paper has not."""
    whole, part = name[: len("figure1")], name[len("figure1") :]
    if whole not in FIGURES or (part and part not in PARTS.get(whole, "")) or len(part) > 1:
        known = [*FIGURES, *(f"{each}{part}" for each, parts in PARTS.items() for part in parts)]
        raise UnknownNameError("figure", name, known)
    return whole, part
