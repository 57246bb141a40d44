"""A run whose model learns nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lrat.training.guards.readings import Reading, epochs, percent


@dataclass(frozen=True, kw_only=True)
class NothingLearnt:
    """Clean accuracy on training images that one answer for all of them would reach.

    For ``patience`` epochs it is at most two standard errors above ``largest_class``, the share of
    the most frequent class among the ``images`` images that it is measured on.
    """

    largest_class: float
    images: int
    patience: int = 3
    name: ClassVar[str] = "nothing-learnt"
    implied_by: ClassVar[frozenset[str]] = frozenset({"image-scale"})

    def __call__(self, readings: Sequence[Reading]) -> str | None:
        last = readings[-self.patience :]
        found = [each.clean for each in last if each.clean is not None]
        share = self.largest_class
        chance = share + 2 * math.sqrt(share * (1 - share) / self.images)
        if len(found) < self.patience or max(found) > chance:
            return None
        return (
            f"nothing is learnt: in {epochs(last)} at most {percent(max(found))} of "
            f"{self.images} clean training images are classified correctly, and the same answer "
            f"for every image would reach {percent(share)}: lower the learning rate (0.01), or "
            "raise it where it is far below that; then look at the labels and at epsilon"
        )
