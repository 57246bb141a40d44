"""Held-out images that are too few to choose an epoch by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lrat.training.guards.readings import Measured, Reading, noise, percent


@dataclass(frozen=True, kw_only=True)
class SmallValidation:
    """The best epochs differ by less than the set can show, and it can show little.

    Selecting is there to find falls as robust overfitting makes them, of some 8 points (Rice et al.
    2020), so two standard errors of a difference above ``coarse`` are too much (fewer than about
    200 images). Speaks where, with such a set, the ``compared`` best epochs so far differ by less
    than those two standard errors. Between good epochs of a large set a choice by chance is no
    harm, and nothing is said.
    """

    validation: Measured
    coarse: float = 0.1
    compared: int = 3
    name: ClassVar[str] = "small-validation"
    implied_by: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, readings: Sequence[Reading]) -> str | None:
        values = [each.selecting for each in readings if each.selecting is not None]
        top = sorted(values, reverse=True)[: self.compared]
        if len(top) < self.compared:
            return None
        shown = 2 * noise(top[0], top[-1], self.validation.images)
        if shown <= self.coarse or top[0] - top[-1] >= shown:
            return None
        return (
            f"the validation set is too small for the selection it makes: {self.validation.images} "
            f"held-out images show differences from about {100 * shown:.0f} points on, but the "
            f"best {self.compared} epochs so far ({', '.join(map(percent, top))} under "
            f"{self.validation.name}) differ by {100 * (top[0] - top[-1]):.1f}: hold out more "
            "images (validation), or take the last epoch"
        )
