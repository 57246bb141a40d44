"""LRAT's weighting by the margin of the variant."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lrat.checks import check_fields
from lrat.errors import SettingError
from lrat.losses import margin_deficit
from lrat.types import PerExample
from lrat.weighting.base import Evidence

_LARGEST_POWER = 100


@dataclass(frozen=True, kw_only=True)
class MarginPower:
    """w(t) = alpha * (1 - t)^beta with t = p_y - max_{i != y} p_i (Eq. 11 and 12); alpha, beta > 0.

    The paper's values are alpha = 2, beta = 0.5. The weight is 0 for a variant that is certainly
    classified correctly (t = 1), and alpha * 2^beta for one certainly misclassified (t = -1).
    """

    alpha: float = 2.0
    beta: float = 0.5
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        check_fields(self)
        if math.log2(self.alpha) + self.beta > _LARGEST_POWER:
            raise SettingError(
                f"{self!r}: the largest weight, alpha * 2^beta, exceeds 2^{_LARGEST_POWER}, beyond "
                "which sums of weights overflow float32: lower beta"
            )

    def __call__(self, evidence: Evidence) -> PerExample:
        return self._of_deficit(margin_deficit(evidence.logits, evidence.labels))

    def of_margin(self, margin: Tensor) -> Tensor:
        """w(t) of margins t in [-1, 1], of any shape."""
        # Rounding can push t above 1; the power of a tiny negative number would be NaN.
        return self._of_deficit((1 - margin).clamp(min=0))

    def _of_deficit(self, deficit: Tensor) -> Tensor:
        return self.alpha * deficit**self.beta
