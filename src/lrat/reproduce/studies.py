"""What `lrat reproduce sensitivity` varies: studies, each a list of rows and their reference."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lrat.config.settings import RunConfig
from lrat.errors import UnknownNameError
from lrat.reproduce.presets import LONG_STEP

LRAT = "lrat-saa+cw"
ALPHA, BETA, FLOOR = 2.0, 0.5, 0.1
"""The paper's values of Eq. 12 and 7."""
_BETAS, _FLOORS = (0.25, 0.5, 1.5, 2.0, 4.0), (0.1, 0.6, 2.0, 4.0)
_CURVE, _UNNORMALISED = (0.001, 0.5, 2.0, 8.0, 32.0), (0.001, 0.5, 2.0)
_ACTING_FLOOR = 4.0
_WEIGHT_DECAYS = (2e-4, 5e-4)


@dataclass(frozen=True, kw_only=True)
class Varied:
    """A row: ``name`` (also of its runs), ``method``, and the ``settings`` that it changes."""

    name: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Study:
    """Rows that answer one ``question``, compared with ``reference`` (one of them)."""

    name: str
    title: str
    question: str
    rows: Sequence[Varied]
    reference: Varied


def _lrat(
    *,
    alpha: float = ALPHA,
    beta: float = BETA,
    floor: float = FLOOR,
    normalization: str = "batch",
    anchor: str | None = None,
) -> Varied:
    """LRAT-SAA+CW; beside beta and C the name tells what differs from the paper's."""
    name = LRAT if alpha == ALPHA else f"{LRAT}-alpha-{alpha:g}"
    name += f"-beta-{beta:g}-c-{floor:g}"
    name += "" if normalization == "batch" else f"-{normalization}"
    name += "" if anchor is None else f"-anchor-{anchor}"
    method = {
        "alpha": alpha,
        "beta": beta,
        "min_weight": floor,
        "normalization": normalization,
        "anchor": anchor,
    }
    return Varied(name=name, method=LRAT, settings={"method": method})


def _sat(epsilon: float, share: float | None, decay: float) -> Varied:
    step = "eps-10" if share is None else "long"
    attack = {} if share is None else {"attack": {"step_size": share * epsilon}}
    return Varied(
        name=f"sat-step-{step}-decay-{decay:g}",
        method="sat",
        settings={**attack, "training": {"weight_decay": decay}},
    )


def _gairat(begin: float, lambda_: float) -> Varied:
    return Varied(
        name=f"gairat-begin-{begin:g}-lambda-{lambda_:g}",
        method="gairat",
        settings={"method": {"gairat_begin": begin, "gairat_lambda": lambda_}},
    )


def studies(base: RunConfig, epsilon: float) -> list[Study]:
    """All studies; ``base``: the configuration that rows change, with this ``epsilon``."""
    decay = base.training.weight_decay
    plain, acting = _sat(epsilon, None, decay), _lrat(floor=_ACTING_FLOOR)
    decays = sorted({decay, *_WEIGHT_DECAYS})
    return [
        Study(
            name="beta-c",
            title="beta and C",
            question="LRAT-SAA+CW: the exponent of Eq. 12 against the floor of Eq. 7 (alpha = 2)",
            rows=[_lrat(beta=beta, floor=floor) for beta in _BETAS for floor in _FLOORS],
            reference=_lrat(),
        ),
        Study(
            name="alpha",
            title="alpha cancels",
            question="LRAT-SAA+CW with C / alpha held: under Eq. 15 alpha should change nothing",
            rows=[_lrat(alpha=by * ALPHA, floor=by * FLOOR) for by in (1, 2, 1.5)],
            reference=_lrat(),
        ),
        Study(
            name="normalisation",
            title="normalisation: from the average to the strongest attack",
            question="LRAT-SAA+CW: Eq. 15 over the batch, over each image, not at all (Algorithm 1 "
            "as printed), by beta: over each image from the average of the attacks (beta -> 0) "
            "to the strongest one (beta -> infinity)",
            rows=[
                _lrat(beta=beta, normalization=kind)
                for kind, betas in (
                    ("batch", _CURVE),
                    ("instance", _CURVE),
                    ("none", _UNNORMALISED),
                )
                for beta in betas
            ],
            reference=_lrat(),
        ),
        Study(
            name="anchor",
            title="the anchor x* where the floor acts",
            question=f"LRAT-SAA+CW with C = {_ACTING_FLOOR:g}, twice alpha: whose variant the "
            "floor falls to",
            rows=[_lrat(floor=_ACTING_FLOOR, anchor=anchor) for anchor in (None, "cw", "clean")],
            reference=acting,
        ),
        Study(
            name="sat",
            title="step size and weight decay",
            question="SAT: step epsilon / 10 (the paper) or .22 epsilon (0.007 at 8/255, the same "
            "group's code), by weight decay",
            rows=[_sat(epsilon, share, each) for share in (None, LONG_STEP) for each in decays],
            reference=plain,
        ),
        Study(
            name="gairat",
            title="GAIRAT's begin and lambda",
            question="GAIRAT: from which fraction of training weights act, and lambda of Eq. 10",
            rows=[_gairat(begin, lambda_) for begin in (0.3, 0.6) for lambda_ in (-1.0, 0.0)],
            reference=_gairat(0.3, -1.0),
        ),
        Study(
            name="weak",
            title="a weak attack mixed in",
            question="SAT, and SAT with FGSM's images mixed in at equal weight (Appendix D)",
            rows=[plain, Varied(name="pgd+fgsm", method="pgd+fgsm")],
            reference=plain,
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


def distinct(chosen: Sequence[Study]) -> list[Varied]:
    """Every row once, in order: studies share rows."""
    return list({row.name: row for study in chosen for row in study.rows}.values())
