"""GAIRAT's weighting by geometric distance: the number of PGD steps that an image survives."""

from dataclasses import dataclass
from typing import ClassVar

from lrat.checks import FLAG, check_fields
from lrat.errors import SettingError
from lrat.text import as_call
from lrat.types import PerExample
from lrat.weighting.base import Evidence


@dataclass(frozen=True, kw_only=True)
class GeometryTanh:
    """w = (1 + tanh(lambda + 5 * (1 - 2 * kappa / K_max))) / 2 (Eq. 10; Zhang et al. 2021).

    kappa is the number of the attack's K_max iterates that were still classified correctly.
    ``lambda_`` is -1 in the authors' code for ResNet-18. The attack must count steps: PGD or CW.

    ``floored``: 5 * (h - kappa) / h with h = floor(K_max / 2) inside tanh, as in the authors' code;
    it differs where K_max is odd, and is undefined for K_max = 1.
    """

    lambda_: float = -1.0
    floored: bool = False
    needs: ClassVar[frozenset[str]] = frozenset({"steps_survived"})

    def __post_init__(self) -> None:
        check_fields(self, floored=FLAG)

    def __repr__(self) -> str:
        return as_call(self, quiet=["floored"])

    def __call__(self, evidence: Evidence) -> PerExample:
        if evidence.steps_survived is None or evidence.max_steps is None:
            raise SettingError(
                "GeometryTanh weighs by the steps an image survived, which this attack does not "
                "count: use PGD or CW, or MarginPower"
            )
        steps = evidence.max_steps - evidence.max_steps % 2 if self.floored else evidence.max_steps
        if not steps:
            raise SettingError("GeometryTanh(floored=True) halves the steps: attack with 2 or more")
        share = evidence.steps_survived.float() / steps
        return (1 + (self.lambda_ + 5 * (1 - 2 * share)).tanh()) / 2
