"""What is varied in `lrat reproduce sensitivity`, and the studies as tables in Markdown.

A study is a list of rows, each against its reference.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lrat.config.settings import RunConfig
from lrat.errors import UnknownNameError
from lrat.evaluation.comparison.groups import GroupContrast
from lrat.evaluation.statistics import ALPHA
from lrat.reproduce.evidence import SeededShare
from lrat.reproduce.presets import LONG_STEP
from lrat.reproduce.table_text import share_cell, signed
from lrat.text import DASH, to_markdown, written_p

LRAT, SAT, GAIRAT = "lrat-saa+cw", "sat", "gairat"
SCALE, EXPONENT, FLOOR = 2.0, 0.5, 0.1
"""The paper's values of Eq. 12 and 7."""
BETAS = (0.25, 0.5, 1.5, 2.0, 4.0)
FLOORS = (0.1, 0.6, 2.0, 4.0)
CURVE = (0.001, 0.5, 2.0, 8.0, 32.0)
UNNORMALISED = (0.001, 0.5, 2.0)
ACTING_FLOOR = 4.0
_WEIGHT_DECAYS = (2e-4, 5e-4)


@dataclass(frozen=True, kw_only=True)
class Varied:
    """A row: ``name`` (also of its runs), ``method``, and the ``settings`` that it changes."""

    name: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layer(self) -> dict[str, Any]:
        """The row's settings as a layer of a configuration."""
        section = dict(self.settings)
        return {**section, "method": {"name": self.method, **section.get("method", {})}}


@dataclass(frozen=True, kw_only=True)
class Study:
    """Rows that answer one ``question``, compared with ``reference`` (one of them)."""

    name: str
    title: str
    question: str
    rows: tuple[Varied, ...]
    reference: str


def lrat_row(
    *,
    alpha: float = SCALE,
    beta: float = EXPONENT,
    floor: float = FLOOR,
    normalization: str = "batch",
    anchor: str | None = None,
) -> Varied:
    """LRAT-SAA+CW; the name tells what differs from the paper's values."""
    values = {"alpha": alpha, "beta": beta, "min_weight": floor}
    told = {"alpha": alpha != SCALE, "beta": True, "min_weight": True}
    name = LRAT + "".join(
        f"-{'c' if key == 'min_weight' else key}-{value:g}"
        for key, value in values.items()
        if told[key]
    )
    name += f"-{normalization}" if normalization != "batch" else ""
    name += f"-anchor-{anchor}" if anchor else ""
    method = {**values, "normalization": normalization, "anchor": anchor}
    return Varied(name=name, method=LRAT, settings={"method": method})


def _sat_row(epsilon: float, share: float | None, decay: float) -> Varied:
    step = "eps-10" if share is None else "long"
    attack = {} if share is None else {"attack": {"step_size": share * epsilon}}
    return Varied(
        name=f"sat-step-{step}-decay-{decay:g}",
        method=SAT,
        settings={**attack, "training": {"weight_decay": decay}},
    )


def _gairat_row(begin: float, lambda_: float) -> Varied:
    return Varied(
        name=f"gairat-begin-{begin:g}-lambda-{lambda_:g}",
        method=GAIRAT,
        settings={"method": {"gairat_begin": begin, "gairat_lambda": lambda_}},
    )


def studies(base: RunConfig, epsilon: float) -> list[Study]:
    """All studies; ``base``: the configuration that rows change, with this ``epsilon``."""
    paper = lrat_row()
    decay = base.training.weight_decay
    plain = _sat_row(epsilon, None, decay)
    decays = sorted({decay, *_WEIGHT_DECAYS})
    mix = Varied(name="pgd+fgsm", method="pgd+fgsm")
    return [
        Study(
            name="beta-c",
            title="beta and C",
            question="LRAT-SAA+CW: the exponent of Eq. 12 against the floor of Eq. 7 (alpha = 2)",
            rows=tuple(lrat_row(beta=beta, floor=floor) for beta in BETAS for floor in FLOORS),
            reference=paper.name,
        ),
        Study(
            name="alpha",
            title="alpha cancels",
            question="LRAT-SAA+CW with C / alpha held: under Eq. 15 alpha should change nothing",
            rows=(
                paper,
                lrat_row(alpha=2 * SCALE, floor=2 * FLOOR),
                lrat_row(alpha=1.5 * SCALE, floor=1.5 * FLOOR),
            ),
            reference=paper.name,
        ),
        Study(
            name="normalisation",
            title="normalisation: from the average to the strongest attack",
            question="LRAT-SAA+CW: Eq. 15 over the batch, over each image, not at all (Algorithm 1 "
            "as printed), by beta: over each image from the average of the attacks (beta -> 0) "
            "to the strongest one (beta -> infinity)",
            rows=(
                *(lrat_row(beta=beta) for beta in CURVE),
                *(lrat_row(beta=beta, normalization="instance") for beta in CURVE),
                *(lrat_row(beta=beta, normalization="none") for beta in UNNORMALISED),
            ),
            reference=paper.name,
        ),
        Study(
            name="anchor",
            title="the anchor x* where the floor acts",
            question=f"LRAT-SAA+CW with C = {ACTING_FLOOR:g}, twice alpha: whose variant the floor "
            "falls to",
            rows=(
                lrat_row(floor=ACTING_FLOOR),
                lrat_row(floor=ACTING_FLOOR, anchor="cw"),
                lrat_row(floor=ACTING_FLOOR, anchor="clean"),
            ),
            reference=lrat_row(floor=ACTING_FLOOR).name,
        ),
        Study(
            name="sat",
            title="step size and weight decay",
            question="SAT: step epsilon / 10 (the paper) or .22 epsilon (0.007 at 8/255, the same "
            "group's code), by weight decay",
            rows=tuple(
                _sat_row(epsilon, share, value) for share in (None, LONG_STEP) for value in decays
            ),
            reference=plain.name,
        ),
        Study(
            name="gairat",
            title="GAIRAT's begin and lambda",
            question="GAIRAT: from which fraction of training weights act, and lambda of Eq. 10",
            rows=tuple(_gairat_row(begin, value) for begin in (0.3, 0.6) for value in (-1.0, 0.0)),
            reference=_gairat_row(0.3, -1.0).name,
        ),
        Study(
            name="weak",
            title="a weak attack mixed in",
            question="SAT, and SAT with FGSM's images mixed in at equal weight (Appendix D)",
            rows=(plain, mix),
            reference=plain.name,
        ),
    ]


NAMES = ("beta-c", "alpha", "normalisation", "anchor", "sat", "gairat", "weak")
"""Of the studies, in their order."""


def check_studies(names: Iterable[str]) -> tuple[str, ...]:
    """``UnknownNameError`` for a study that there is not."""
    for name in names:
        if name not in NAMES:
            raise UnknownNameError("study", name, NAMES)
    return tuple(names)


def distinct(found: Sequence[Study]) -> list[Varied]:
    """Every row once, in order: studies share rows."""
    return list({row.name: row for study in found for row in study.rows}.values())


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
                line.append(DASH if row.farthest is None else f"{row.farthest:.2g}")
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
        return [DASH, DASH]
    p = row.contrast.p_images_adjusted
    return [signed(row.contrast.difference), written_p(p)]


def _differs(contrast: GroupContrast | None) -> bool:
    if contrast is None or contrast.p_images_adjusted is None:
        return False
    return contrast.p_images_adjusted < ALPHA


def _weights(term: Mapping[str, float] | None) -> str:
    """``0.51, 99 %``: share and effective sample size."""
    if not term:
        return DASH
    size = term.get("effective_sample_size")
    told = "" if size is None else f", {100 * size:.0f} %"
    return f"{term.get('share', 0.0):.2f}{told}"
