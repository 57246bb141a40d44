"""The studies of a sensitivity as tables in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lrat.evaluation.comparison.groups import GroupContrast
from lrat.evaluation.comparison.words import written_p
from lrat.evaluation.statistics import ALPHA
from lrat.experiments.reproduce.shares import SeededShare
from lrat.reproduce.table_text import share_cell, signed
from lrat.text import to_markdown

_DASH = "–"


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """A row's scores over seeds, its worst case against the reference's, what its weights were in
    the last epoch, and how far its network's weights lie from the reference's (None: not asked)."""

    name: str
    seeds: tuple[int, ...]
    scores: Mapping[str, SeededShare]
    contrast: GroupContrast | None
    weights: Mapping[str, Mapping[str, float]]
    farthest: float | None = None


@dataclass(frozen=True, kw_only=True)
class StudyTable:
    """A study's rows; ``failed``: runs that could not be trained, and why."""

    name: str
    title: str
    question: str
    reference: str
    columns: tuple[str, ...]
    rows: tuple[StudyRow, ...]
    failed: Mapping[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; shares and differences are fractions."""
        return {
            "study": self.name,
            "title": self.title,
            "question": self.question,
            "reference": self.reference,
            "columns": list(self.columns),
            "rows": [asdict(row) for row in self.rows],
            "failed": dict(self.failed),
        }

    def lines(self) -> list[list[str]]:
        """A line per row: accuracies, the worst case against the reference, the weights."""
        terms = list(dict.fromkeys(term for row in self.rows for term in row.weights))
        measured = any(row.farthest is not None for row in self.rows)
        header = ["", *self.columns, "worst case, points", "p", *terms]
        lines = [[*header, "largest weight change"] if measured else header]
        for row in self.rows:
            line = [row.name, *(share_cell(row.scores[column]) for column in self.columns)]
            line += _against(row, self.reference)
            line += [_weights(row.weights.get(term)) for term in terms]
            if measured:
                line.append(_DASH if row.farthest is None else f"{row.farthest:.2g}")
            lines.append(line)
        return lines

    @property
    def told(self) -> list[StudyRow]:
        """The rows whose worst case differs from the reference's, over the images tested."""
        return [row for row in self.rows if _differs(row.contrast)]

    @property
    def conclusion(self) -> str:
        """Which rows differ from the reference, and what these many images could not show."""
        others = [row for row in self.rows if row.contrast is not None]
        if not others:
            return f"{self.title}: no row can be compared with {self.reference}."
        parts = [
            f"{row.name} {signed(row.contrast.difference)}"
            for row in self.told
            if row.contrast is not None
        ]
        told = ", ".join(parts) or "no row"
        return (
            f"{self.title}: told apart from {self.reference} by the worst case (points): {told}; "
            f"{len(others) - len(parts)} of {len(others)} rows are not."
        )


def markdown(tables: Sequence[StudyTable], about: str, command: str) -> str:
    """All studies in one text."""
    blocks = [
        "# Sensitivity",
        "",
        f"{about}. Accuracy in per cent with its 95 % interval over seeds and images. Worst case, "
        "points: against the study's reference, on the same images and seeds; p: exact sign-flip "
        "test over the images of all seeds, after Holm's correction for the study, so it speaks of "
        "these very models. Terms: share of the loss in the last epoch (1 is the mean image's "
        "whole; the floor's share counts to the term that it falls to), and the effective sample "
        "size of the coefficients, in per cent of a batch.",
        "",
    ]
    for table in tables:
        blocks += [
            f"## {table.title[0].upper() + table.title[1:]}",
            "",
            f"{table.question}. Reference: `{table.reference}`.",
            "",
        ]
        if table.rows:
            blocks += [to_markdown(table.lines()), table.conclusion, ""]
        blocks += [f"`{name}` could not be trained: {why}." for name, why in table.failed.items()]
        blocks += [""] * bool(table.failed)
    return "\n".join([*blocks, f"Made by `{command}`.", ""])


def in_brief(tables: Sequence[StudyTable]) -> tuple[dict[str, list[list[str]]], str]:
    """For a narrow terminal: worst cases alone, and the conclusions."""
    shown = {
        table.title: [
            ["", "worst case", "points", "p"],
            *(
                [
                    row.name,
                    share_cell(row.scores[table.columns[-1]]),
                    *_against(row, table.reference),
                ]
                for row in table.rows
            ),
        ]
        for table in tables
        if table.rows
    }
    return shown, "\n".join(table.conclusion for table in tables)


def _against(row: StudyRow, reference: str) -> list[str]:
    if row.name == reference:
        return ["reference", ""]
    if row.contrast is None:
        return [_DASH, _DASH]
    p = row.contrast.p_images_adjusted
    return [signed(row.contrast.difference), _DASH if p is None else written_p(p)]


def _differs(contrast: GroupContrast | None) -> bool:
    if contrast is None or contrast.p_images_adjusted is None:
        return False
    return contrast.p_images_adjusted < ALPHA


def _weights(term: Mapping[str, float] | None) -> str:
    """``0.51, 99 %``: share and effective sample size."""
    if not term:
        return _DASH
    size = term.get("effective_sample_size")
    told = "" if size is None else f", {100 * size:.0f} %"
    return f"{term.get('share', 0.0):.2f}{told}"
