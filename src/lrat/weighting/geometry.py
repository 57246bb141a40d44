"""GAIRAT's weighting by geometric distance: the number of PGD steps that an image survives."""

from dataclasses import dataclass
from typing import ClassVar

from lrat.checks import check_fields
from lrat.errors import SettingError
from lrat.types import PerExample
from lrat.weighting.base import Evidence


@dataclass(frozen=True, kw_only=True)
class GeometryTanh:
    """w = (1 + tanh(lambda + 5 * (1 - 2 * kappa / K_max))) / 2 (Eq. 10; Zhang et al. 2021).

    kappa: how many of the attack's K_max iterates were still classified correctly. ``lambda_`` is
    -1 in the authors' code for ResNet-18. Needs an attack that counts steps: PGD or CW.
    """

    lambda_: float = -1.0
    needs: ClassVar[frozenset[str]] = frozenset({"steps_survived"})

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, evidence: Evidence) -> PerExample:
        if evidence.steps_survived is None or evidence.max_steps is None:
            raise SettingError(
                "GeometryTanh weighs by the steps an image survived, which this attack does not "
                "count: use PGD or CW, or weigh by MarginPower"
            )
        share = evidence.steps_survived.float() / evidence.max_steps
        return (1 + (self.lambda_ + 5 * (1 - 2 * share)).tanh()) / 2
