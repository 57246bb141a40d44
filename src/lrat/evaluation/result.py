"""What an evaluation found: everything here is derived from the outcomes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import RunFolderError
from lrat.evaluation.outcomes import Outcomes
from lrat.evaluation.statistics import Proportion, wilson
from lrat.evaluation.storage import SUMMARY, Identity, read_finished, read_json
from lrat.evaluation.suites import NATURAL


@dataclass(frozen=True, kw_only=True)
class MeanPasses:
    """Passes that an attack spent, as a mean over all images of the set."""

    forwards: float
    backwards: float


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationResult:
    """Outcomes of a suite on a set of images, with the identity they were made under.

    ``identity``: ``suite``, ``threat``, ``tolerance``, ``seed``, ``attacks`` (name to settings, in
    order) and what the caller added about model and data.
    """

    outcomes: Outcomes
    identity: Identity

    @staticmethod
    def from_folder(folder: Path | str) -> "EvaluationResult":
        """Read a finished evaluation back; ``RunFolderError`` for anything else, also for one of
        which a part is missing."""
        place = Path(folder)
        identity, rows = read_finished(place)
        names = (NATURAL, *identity["attacks"])
        outcomes = rows.arranged(names)
        _check_complete(place, names, outcomes)
        return EvaluationResult(outcomes=outcomes, identity=identity)

    @property
    def suite(self) -> str:
        return str(self.identity["suite"])

    @property
    def threat(self) -> str:
        return str(self.identity["threat"])

    @property
    def seed(self) -> int:
        return int(self.identity["seed"])

    @property
    def names(self) -> tuple[str, ...]:
        """``natural``, then the attacks in the suite's order."""
        return (NATURAL, *self.identity["attacks"])

    @cached_property
    def index(self) -> npt.NDArray[np.int64]:
        """The images' numbers, ascending."""
        return np.sort(self.outcomes.under(NATURAL).index)

    def robust(self, names: Iterable[str]) -> npt.NDArray[np.bool_]:
        """For each of ``index``: right under every one of these attacks."""
        stands = np.ones(len(self.index), dtype=bool)
        for name in names:
            stands &= ~self.outcomes.under(name).at(self.index).fooled
        return stands

    @cached_property
    def accuracy(self) -> dict[str, Proportion]:
        """Share of images that are right, ``natural`` first. Images that are wrong when clean
        count as not robust under every attack."""
        return {name: _share(self.robust([name])) for name in self.names}

    @cached_property
    def worst_case(self) -> Proportion:
        """Share of images that are right when clean and under every attack."""
        return _share(self.robust(self.names))

    @cached_property
    def passes(self) -> dict[str, MeanPasses]:
        """Per attack, mean passes per image over all images, attacked or not."""
        return {
            name: MeanPasses(
                forwards=float(rows.forwards.mean()), backwards=float(rows.backwards.mean())
            )
            for name, rows in ((name, self.outcomes.under(name)) for name in self.names)
        }

    def summary(self) -> dict[str, Any]:
        """All of the above as plain values for JSON; shares are fractions."""
        return {
            "images": len(self.index),
            "interval": "Wilson 95 %",
            "accuracy": {name: _as_dict(share) for name, share in self.accuracy.items()},
            "worst_case": _as_dict(self.worst_case),
            "passes": {
                name: {"forwards": spent.forwards, "backwards": spent.backwards}
                for name, spent in self.passes.items()
            },
            "identity": self.identity,
        }

    def __str__(self) -> str:
        """A table in per cent; passes are means per image."""
        rows = [("attack", "accuracy %", "95 % interval", "forwards", "backwards")]
        for name in self.names:
            spent = self.passes[name]
            share = self.accuracy[name]
            rows.append((name, *percent(share), f"{spent.forwards:.1f}", f"{spent.backwards:.1f}"))
        forwards = sum(spent.forwards for spent in self.passes.values())
        backwards = sum(spent.backwards for spent in self.passes.values())
        total = (f"{forwards:.1f}", f"{backwards:.1f}")
        rows.append(("worst case", *percent(self.worst_case), *total))
        about = f"n {len(self.index)}, seed {self.seed}, {self.threat}; passes are means per image"
        return f"{aligned(rows)}\n{about}"


def percent(share: Proportion) -> tuple[str, str]:
    """``("45.20", "42.13 - 48.30")``."""
    return f"{100 * share.value:.2f}", f"{100 * share.low:.2f} - {100 * share.high:.2f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Plain-text columns under a header: the first to the left, the others to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]])


def _check_complete(folder: Path, names: Iterable[str], outcomes: Outcomes) -> None:
    """Refuse fewer rows than there were images: every share would silently be of the rest."""
    images = read_json(folder / SUMMARY).get("images")
    for name in names:
        held = len(outcomes.under(name))
        if held != images:
            raise RunFolderError(
                f"{folder} was finished with {images} images and holds {held} of {name}: parts are "
                "missing; run the same evaluation again, which makes them anew"
            )


def _share(right: npt.NDArray[np.bool_]) -> Proportion:
    return wilson(int(right.sum()), len(right))


def _as_dict(share: Proportion) -> dict[str, float | int]:
    return {"value": share.value, "low": share.low, "high": share.high, "n": share.n}
