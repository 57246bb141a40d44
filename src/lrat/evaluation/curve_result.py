"""The bounds of the smallest epsilons during a search, and the security curve that they give."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import DataError
from lrat.evaluation.statistics import Proportion, percent, wilson
from lrat.files.read import NOT_AS_WRITTEN
from lrat.text import aligned

Positions = npt.NDArray[np.int64]
_SHOWN_ROWS = 8


def epsilon_at(level: int, highest: float, levels: int) -> float:
    """The epsilon of a level, of equal steps from 0 to ``highest``."""
    return highest * level / levels


@dataclass(frozen=True, kw_only=True, eq=False)
class Brackets:
    """The bounds of each of N images, in levels of epsilon; columns int64 [N].

    ``low``: the largest level at which the image was robust, -1 where it is wrong when clean.
    ``high``: the smallest level at which an adversarial image is known, 0 where the clean image is
    one; one above the highest level where there is none. A search has ended where
    ``high = low + 1``.
    """

    index: Positions
    label: Positions
    low: Positions
    high: Positions

    @staticmethod
    def from_columns(columns: Mapping[str, Any]) -> "Brackets":
        """The brackets of these columns; raises ``DataError`` for missing columns and unequal
        lengths; other columns are ignored."""
        names = [part.name for part in fields(Brackets)]
        missing = [name for name in names if name not in columns]
        if missing:
            raise DataError(f"a curve's images lack the columns {', '.join(missing)}")
        try:
            with np.errstate(invalid="raise"):
                cast = {name: np.asarray(columns[name], dtype=np.int64) for name in names}
        except NOT_AS_WRITTEN:
            raise DataError("columns of a curve's images hold no whole numbers") from None
        if len({len(column) for column in cast.values()}) > 1:
            raise DataError("columns of a curve's images differ in length")
        return Brackets(**cast)

    def columns(self) -> dict[str, Positions]:
        """The columns by name; ``from_columns`` reads them back."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def __len__(self) -> int:
        return len(self.index)

    @property
    def searching(self) -> npt.NDArray[np.bool_]:
        """Per image: whether there are levels between its bounds."""
        return self.high - self.low > 1

    @property
    def attacks_left(self) -> int:
        """The largest number of attacks on single images that may still be needed."""
        return int(np.ceil(np.log2(np.maximum(self.high - self.low, 1))).sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Accuracy at ``levels`` + 1 equal steps of epsilon from 0 to ``max_epsilon``.

    ``brackets``: the smallest level at which each image is fooled (``high``). ``settings``: the
    attack at ``max_epsilon``. Epsilon is in [0, 1] pixel units, in ``norm``. ``notes``: sentences
    about problems of the numbers. ``trained_epsilon``: that of the model's training, None if
    unknown.
    """

    attack: str
    settings: str
    norm: str
    max_epsilon: float
    levels: int
    seed: int
    brackets: Brackets
    notes: tuple[str, ...] = ()
    trained_epsilon: float | None = None

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.brackets)

    @property
    def epsilons(self) -> tuple[float, ...]:
        """The grid from 0 to ``max_epsilon``, ascending."""
        return tuple(epsilon_at(level, self.max_epsilon, self.levels) for level in self._all_levels)

    @property
    def _all_levels(self) -> range:
        return range(self.levels + 1)

    @cached_property
    def smallest(self) -> npt.NDArray[np.float64]:
        """[N]: the smallest epsilon of the grid that fools each image: 0 where it is wrong when
        clean, infinite where the attack failed up to ``max_epsilon``."""
        grid = np.array([*self.epsilons, np.inf])
        return grid[self.brackets.high]

    @cached_property
    def accuracy(self) -> tuple[Proportion, ...]:
        """At each of ``epsilons``, the share of images not fooled, with Wilson's 95 % interval."""
        high = self.brackets.high
        return tuple(wilson(int((high > level).sum()), self.n) for level in self._all_levels)

    @property
    def censored(self) -> Proportion:
        """The share of images robust at ``max_epsilon``, whose smallest epsilon is unknown."""
        return self.accuracy[-1]

    @property
    def area(self) -> float:
        """The area under the curve over that of accuracy 1 up to ``max_epsilon`` (trapezoids)."""
        values = [share.value for share in self.accuracy]
        return (sum(values) - (values[0] + values[-1]) / 2) / self.levels

    @property
    def mean_epsilon(self) -> float:
        """The mean smallest epsilon, with ``max_epsilon`` for images robust at it: a lower bound
        unless ``censored`` is 0. Exact to half a step, as ``area`` is."""
        return self.area * self.max_epsilon

    @property
    def median_epsilon(self) -> float | None:
        """The smallest epsilon of the grid that fools half of the images; None if none does."""
        for epsilon, share in zip(self.epsilons, self.accuracy, strict=True):
            if share.value <= 0.5:
                return epsilon
        return None

    def as_dict(self) -> dict[str, Any]:
        """The curve as plain values for JSON, without the images, which ``columns`` returns."""
        return {
            "attack": self.attack,
            "settings": self.settings,
            "norm": self.norm,
            "max_epsilon": self.max_epsilon,
            "levels": self.levels,
            "seed": self.seed,
            "n": self.n,
            "interval": "Wilson 95 %",
            "epsilon": list(self.epsilons),
            "accuracy": [share.value for share in self.accuracy],
            "low": [share.low for share in self.accuracy],
            "high": [share.high for share in self.accuracy],
            "area": self.area,
            "mean_epsilon": self.mean_epsilon,
            "median_epsilon": self.median_epsilon,
            "censored": self.censored.value,
            "notes": list(self.notes),
            "trained_epsilon": self.trained_epsilon,
        }

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Per image: ``index``, ``label``, ``low``, ``high`` (levels) and ``smallest_epsilon``."""
        return {**self.brackets.columns(), "smallest_epsilon": self.smallest}

    @staticmethod
    def from_dict(about: Mapping[str, Any], columns: Mapping[str, Any]) -> "Curve":
        """The curve of ``as_dict`` and ``columns``; accuracies are computed again.

        Raises ``DataError`` for other values.
        """
        brackets = Brackets.from_columns(columns)
        try:
            trained = about.get("trained_epsilon")
            curve = Curve(
                attack=str(about["attack"]),
                settings=str(about["settings"]),
                norm=str(about["norm"]),
                max_epsilon=float(about["max_epsilon"]),
                levels=int(about["levels"]),
                seed=int(about["seed"]),
                brackets=brackets,
                notes=tuple(about.get("notes", ())),
                trained_epsilon=None if trained is None else float(trained),
            )
            whole = curve.n > 0 and len(about["epsilon"]) == curve.levels + 1 > 1
        except KeyError as missing:
            raise DataError(f"a stored curve lacks {missing}: compute it again") from None
        if not whole:
            raise DataError("a stored curve lacks images or epsilons: compute it again")
        return curve

    def __str__(self) -> str:
        """A table of some epsilons, and the area, mean and median."""
        stride = max(1, self.levels // _SHOWN_ROWS)
        shown = sorted({*range(0, self.levels + 1, stride), self.levels})
        rows = [("epsilon", "accuracy %", "95 % interval")]
        rows += [(f"{self.epsilons[at]:.4f}", *percent(self.accuracy[at])) for at in shown]
        median = self.median_epsilon
        beyond = self.censored.value
        mean = f"{self.mean_epsilon:.4f}"
        if beyond:
            mean = f"at least {mean} ({100 * beyond:.1f} % withstand {self.max_epsilon:g})"
        return "\n".join(
            [
                aligned(rows),
                f"area under the curve up to {self.max_epsilon:g}: {self.area:.4f} of 1",
                f"smallest epsilon that fools: mean {mean}, median "
                + (f"above {self.max_epsilon:g}" if median is None else f"{median:.4f}"),
                f"{self.attack}, {self.norm}, n {self.n}, seed {self.seed}, "
                f"{self.levels} steps of {self.max_epsilon / self.levels:.4g}",
                *(f"note: {note}" for note in self.notes),
            ]
        )
