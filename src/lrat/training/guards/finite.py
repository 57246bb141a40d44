"""Steps that were skipped because their loss or gradient was not finite."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lrat.errors import NonFiniteError
from lrat.training.guards.reading import Reading

_CURE = "lower the learning rate, clip gradients, or look at the images and the loss"


@dataclass(frozen=True, kw_only=True)
class SkippedSteps:
    """Speaks of the first epoch with skipped steps; ``NonFiniteError`` where they are the most.

    An epoch in which more than half of the steps changed nothing is no training any more.
    """

    name: ClassVar[str] = "skipped-steps"
    implied_by: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, readings: Sequence[Reading]) -> str | None:
        now = readings[-1]
        if not now.skipped:
            return None
        steps = now.taken + now.skipped
        found = (
            f"{now.skipped} of {steps} steps were skipped, as their loss or gradient was NaN or "
            "infinite"
        )
        if 2 * now.skipped > steps:
            raise NonFiniteError(f"epoch {now.epoch}: {found}: the run stops here; {_CURE}")
        return f"{found}: if there are more, {_CURE}"
