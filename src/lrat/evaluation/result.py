"""The result of an evaluation, all derived from its outcomes."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import RunFolderError
from lrat.evaluation.outcomes import NATURAL, Outcomes
from lrat.evaluation.statistics import Proportion, mean_proportion, percent, wilson
from lrat.evaluation.storage.records import check_summary, notes_of
from lrat.evaluation.storage.store import Identity, read_finished
from lrat.files.names import SUMMARY
from lrat.text import aligned


@dataclass(frozen=True, kw_only=True)
class MeanPasses:
    """The passes of an attack, as a mean over all images of the set."""

    forwards: float
    backwards: float


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationResult:
    """Outcomes of a suite on a set of images, with the identity of the evaluation.

    ``identity``: ``suite``, ``threat``, ``tolerance``, ``seed``, ``attacks`` (name to settings, in
    order), ``cascades`` (name to the attacks that are its stages) and the caller's strings about
    model and data. ``notes``: sentences about problems of the numbers.
    """

    outcomes: Outcomes
    identity: Identity
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for cascade, stages in self.stages.items():
            if cascade not in self.outcomes.attack:
                whole = self.outcomes.of_cascade(cascade, stages)
                joined = Outcomes.concatenate([self.outcomes, whole])
                object.__setattr__(self, "outcomes", joined)

    @staticmethod
    def from_folder(folder: Path | str) -> "EvaluationResult":
        """Read a finished evaluation back; ``RunFolderError`` for other folders, and for missing
        parts."""
        path = Path(folder)
        identity, rows, summary = read_finished(path)
        names = (NATURAL, *identity["attacks"])
        outcomes = rows.arranged(names)
        _check_complete(path, names, outcomes, summary.get("images"))
        result = EvaluationResult(outcomes=outcomes, identity=identity, notes=notes_of(summary))
        check_summary(path / SUMMARY, summary, result.summary())
        return result

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
    def stages(self) -> dict[str, tuple[str, ...]]:
        """Each cascade's stages: ``autoattack`` has ``autoattack.apgd-ce`` and so on."""
        return {name: tuple(names) for name, names in self.identity.get("cascades", {}).items()}

    @property
    def names(self) -> tuple[str, ...]:
        """``natural``, then the attacks in the suite's order; a cascade counts as one attack."""
        whole = {stages[-1]: cascade for cascade, stages in self.stages.items()}
        earlier = {stage for stages in self.stages.values() for stage in stages[:-1]}
        attacks = [name for name in self.identity["attacks"] if name not in earlier]
        return (NATURAL, *(whole.get(name, name) for name in attacks))

    @property
    def settings(self) -> dict[str, str]:
        """The settings of each of ``names`` but ``natural``."""
        settings: dict[str, str] = self.identity["attacks"]
        stages = self.stages
        return {
            name: "; ".join(f"{stage}: {settings[stage]}" for stage in stages.get(name, ()))
            or settings[name]
            for name in self.names[1:]
        }

    @cached_property
    def index(self) -> npt.NDArray[np.int64]:
        """The images' numbers, ascending."""
        return np.sort(self.outcomes.under(NATURAL).index)

    def robust(self, names: Iterable[str]) -> npt.NDArray[np.bool_]:
        """For each of ``index``: right under every one of these attacks."""
        robust = np.ones(len(self.index), dtype=bool)
        for name in names:
            robust &= ~self.outcomes.under(name).at(self.index).fooled
        return robust

    @cached_property
    def accuracy(self) -> dict[str, Proportion]:
        """Share of images that are classified correctly, ``natural`` first. Images that are wrong
        when clean count as not robust under every attack. For a cascade's stages it is the share
        that no stage so far has fooled."""
        return {name: _share(self.robust([name])) for name in self._rows}

    @cached_property
    def average(self) -> Proportion | None:
        """Mean accuracy over the attacks, without ``natural``; None without attacks. The ends of
        the interval are means of theirs, so that it is never too narrow."""
        attacks = self.names[1:]
        return mean_proportion([self.accuracy[name] for name in attacks]) if attacks else None

    @property
    def _rows(self) -> tuple[str, ...]:
        """``names``, each cascade followed by its stages."""
        stages = self.stages
        return tuple(part for name in self.names for part in (name, *stages.get(name, ())))

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
            for name, rows in ((name, self.outcomes.under(name)) for name in self._rows)
        }

    def summary(self) -> dict[str, Any]:
        """All of the above as plain values for JSON; shares are fractions."""
        return {
            "images": len(self.index),
            "interval": "Wilson 95 %",
            "accuracy": {name: _as_dict(share) for name, share in self.accuracy.items()},
            "worst_case": _as_dict(self.worst_case),
            "average": None if self.average is None else _as_dict(self.average),
            "passes": {
                name: {"forwards": passes.forwards, "backwards": passes.backwards}
                for name, passes in self.passes.items()
            },
            "identity": self.identity,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """A table in per cent; passes are means per image."""
        rows = [("attack", "accuracy %", "95 % interval", "forwards", "backwards")]
        stages = {stage: cascade for cascade, all in self.stages.items() for stage in all}
        for name in self._rows:
            passes, label = self.passes[name], name
            if name in stages:
                label = f"  after {name.removeprefix(stages[name] + '.')}"
            counts = f"{passes.forwards:.1f}", f"{passes.backwards:.1f}"
            rows.append((label, *percent(self.accuracy[name]), *counts))
        forwards = sum(self.passes[name].forwards for name in self.names)
        backwards = sum(self.passes[name].backwards for name in self.names)
        counts = f"{forwards:.1f}", f"{backwards:.1f}"
        rows.append(("worst case", *percent(self.worst_case), *counts))
        about = f"n {len(self.index)}, seed {self.seed}, {self.threat}; passes are means per image"
        return "\n".join([aligned(rows), about, *(f"note: {note}" for note in self.notes)])


def _check_complete(
    folder: Path, names: Iterable[str], outcomes: Outcomes, images: int | None
) -> None:
    """Refuse fewer rows than images, since all shares would silently be those of the rest."""
    for name in names:
        count = len(outcomes.under(name))
        if count != images:
            raise RunFolderError(
                f"{folder} was finished with {images} images and holds {count} of {name}: parts "
                "are missing; run the same evaluation again, which computes them again"
            )


def _share(right: npt.NDArray[np.bool_]) -> Proportion:
    return wilson(int(right.sum()), len(right))


def _as_dict(share: Proportion) -> dict[str, float | int]:
    return {"value": share.value, "low": share.low, "high": share.high, "n": share.n}
