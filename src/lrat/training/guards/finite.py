"""Steps that were skipped because their loss or gradient was not finite."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lrat.training.guards.readings import Reading

_CURE = "lower the learning rate, clip gradients, or look at the images and the loss"


@dataclass(frozen=True, kw_only=True)
class SkippedSteps:
    """Speaks after the first epoch in which steps were skipped."""

    name: ClassVar[str] = "skipped-steps"
    implied_by: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, readings: Sequence[Reading]) -> str | None:
        now = readings[-1]
        return f"{_found(now)}: if there are more, {_CURE}" if now.skipped else None


def _found(reading: Reading) -> str:
    return (
        f"{reading.skipped} of {reading.taken + reading.skipped} steps were skipped, as their loss "
        "or gradient was NaN or infinite"
    )
