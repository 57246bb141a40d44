"""The outcomes of an evaluation: one row per image and attack, in columns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import DataError
from lrat.files.read import NOT_AS_WRITTEN

NATURAL = "natural"
"""The attack name of the rows of clean images."""
UNKNOWN = -1
"""``step`` and ``source`` where the attack does not report them, or did not run."""

_TYPES: dict[str, type[np.generic]] = {
    "index": np.int64,
    "label": np.int64,
    "attack": np.str_,
    "fooled": np.bool_,
    "prediction": np.int64,
    "margin_clean": np.float32,
    "margin": np.float32,
    "step": np.int64,
    "source": np.int64,
    "forwards": np.float64,
    "backwards": np.float64,
    "distance": np.float32,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """Columns of equal length; a row is one image under one attack (or ``natural``).

    ``fooled``: not robust, that is ``prediction`` differs from ``label``; an image that is wrong
    when clean is fooled under every attack without being attacked, and its row repeats the clean
    image (margin, distance 0, no passes). ``margin_clean`` and ``margin``: logit margin (Eq. 6) of
    the clean and of the returned image, from the float32 forward of the original model. ``step``
    and ``source``: the numbers of the iterate, and of the restart or target, of the image; -1
    unknown. ``forwards``, ``backwards``: passes of the attack for the image. ``distance``: between
    returned and clean image, in the threat's norm. A stage of a cascade attacks the images that
    earlier stages did not fool; its rows of the others repeat the row of the stage that fooled
    them.
    """

    index: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    attack: npt.NDArray[Any]
    fooled: npt.NDArray[np.bool_]
    prediction: npt.NDArray[np.int64]
    margin_clean: npt.NDArray[np.float32]
    margin: npt.NDArray[np.float32]
    step: npt.NDArray[np.int64]
    source: npt.NDArray[np.int64]
    forwards: npt.NDArray[np.float64]
    backwards: npt.NDArray[np.float64]
    distance: npt.NDArray[np.float32]

    @staticmethod
    def from_columns(columns: Mapping[str, Any]) -> "Outcomes":
        """Outcomes from arrays or sequences by column name, cast to the columns' types.

        Raises ``DataError`` for missing columns, values of other types and unequal lengths; other
        columns are ignored.
        """
        missing = [name for name in _TYPES if name not in columns]
        if missing:
            raise DataError(f"outcomes lack the columns {', '.join(missing)}")
        cast = {name: _cast(name, columns[name], kind) for name, kind in _TYPES.items()}
        lengths = {name: len(column) for name, column in cast.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"columns of outcomes differ in length: {lengths}")
        return Outcomes(**cast)

    @staticmethod
    def concatenate(parts: Iterable["Outcomes"]) -> "Outcomes":
        """The rows of all parts, in order; without parts there are no rows."""
        tables = [part.columns() for part in parts]
        if not tables:
            return Outcomes.from_columns(dict.fromkeys(_TYPES, ()))
        return Outcomes.from_columns(
            {name: np.concatenate([table[name] for table in tables]) for name in _TYPES}
        )

    def __len__(self) -> int:
        return len(self.index)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """All columns by name, as they are stored; ``pandas.DataFrame`` takes them too."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def select(self, rows: npt.NDArray[Any]) -> "Outcomes":
        """The rows of a boolean mask or of positions, in that order."""
        return Outcomes.from_columns(
            {name: column[rows] for name, column in self.columns().items()}
        )

    @property
    def contradiction(self) -> str | None:
        """The sentence about the first row that contradicts itself; None where none does."""
        lost = self.fooled
        repeated = np.ones(len(self), dtype=bool)
        pairs = np.rec.fromarrays([self.attack, self.index]) if len(self) else self.index
        repeated[np.unique(pairs, return_index=True)[1]] = False
        for wrong, what in (
            (repeated, "is there twice"),
            (lost != (self.prediction != self.label), "has a verdict that is not its prediction's"),
            (np.where(lost, self.margin > 0, self.margin < 0), "has a margin of the other sign"),
            (~lost & (self.margin_clean < 0), "is robust and was wrong when clean"),
            ((self.index < 0) | (self.label < 0) | (self.prediction < 0), "has a negative number"),
            ((self.step < UNKNOWN) | (self.source < UNKNOWN), "has a negative step or source"),
            (~(self.forwards >= 0) | ~(self.backwards >= 0), "has no count of passes"),
            (self.distance < 0, "has a negative distance"),
        ):
            if wrong.any():
                at = int(wrong.argmax())
                return f"image {self.index[at]} under {self.attack[at]} {what}"
        return None

    def under(self, attack: str) -> "Outcomes":
        """The rows of one attack (or of ``natural``)."""
        return self.select(self.attack == attack)

    def arranged(self, attacks: Iterable[str]) -> "Outcomes":
        """The rows of these attacks in this order, each by ascending image number, once each."""
        parts = []
        for attack in attacks:
            rows = self.under(attack)
            _, first = np.unique(rows.index, return_index=True)
            parts.append(rows.select(first))
        return Outcomes.concatenate(parts)

    def of_cascade(self, name: str, stages: Sequence[str]) -> "Outcomes":
        """The rows of a cascade from those of its stages, under ``name``.

        Each image's row is that of the stage that fooled it, else of the stage that came closest
        (smallest margin); ``source`` is that stage's number and passes are the sum over stages.
        """
        index = np.sort(self.under(stages[0]).index)
        rows = [self.under(stage).at(index) for stage in stages]
        fooled = np.stack([each.fooled for each in rows])
        margin = np.stack([each.margin for each in rows])
        decided = np.where(fooled[-1], fooled.argmax(0), margin.argmin(0))
        columns = {
            key: np.stack([each.columns()[key] for each in rows])[decided, np.arange(len(index))]
            for key in _TYPES
        }
        for key in ("forwards", "backwards"):
            columns[key] = sum(each.columns()[key] for each in rows)
        columns["source"] = np.where(columns["forwards"] > 0, decided, UNKNOWN)
        columns["attack"] = np.full(len(index), name)
        return Outcomes.from_columns(columns)

    def holds(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """[B]: whether there is a row with this image number."""
        return np.isin(index, self.index)

    def at(self, index: npt.NDArray[np.int64]) -> "Outcomes":
        """One row for each of these image numbers, in their order.

        For the rows of one attack. Raises ``DataError`` when a number is missing.
        """
        absent = index[~self.holds(index)]
        if len(absent):
            raise DataError(f"no outcome for image {absent[0]} (and {len(absent) - 1} more)")
        order = np.argsort(self.index, kind="stable")
        return self.select(order[np.searchsorted(self.index, index, sorter=order)])


def _cast(name: str, values: Any, kind: type[np.generic]) -> npt.NDArray[Any]:
    try:
        with np.errstate(invalid="raise"):
            return np.asarray(values, dtype=kind)
    except NOT_AS_WRITTEN:
        raise DataError(f"the column {name} holds values that are no {kind.__name__}") from None
