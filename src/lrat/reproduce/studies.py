"""What is varied in `lrat reproduce sensitivity`: studies of rows, each against its reference."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lrat.config.settings import RunConfig
from lrat.errors import UnknownNameError
from lrat.experiments.reproduce.rows import LONG_STEP

LRAT, SAT, GAIRAT = "lrat-saa+cw", "sat", "gairat"
ALPHA, BETA, FLOOR = 2.0, 0.5, 0.1
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
    alpha: float = ALPHA,
    beta: float = BETA,
    floor: float = FLOOR,
    normalization: str = "batch",
    anchor: str | None = None,
) -> Varied:
    """LRAT-SAA+CW; the name tells what differs from the paper's values."""
    values = {"alpha": alpha, "beta": beta, "min_weight": floor}
    told = {"alpha": alpha != ALPHA, "beta": True, "min_weight": True}
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
                lrat_row(alpha=2 * ALPHA, floor=2 * FLOOR),
                lrat_row(alpha=1.5 * ALPHA, floor=1.5 * FLOOR),
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
