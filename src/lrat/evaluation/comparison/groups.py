"""Runs of one configuration with other training seeds, and what sets two such groups apart."""

from dataclasses import dataclass

from lrat.errors import SettingError
from lrat.evaluation.comparison.seeds import Mean
from lrat.evaluation.comparison.words import not_compared, untold, written_p
from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.statistics import ALPHA, Proportion

IMAGES = "images"
"""The basis of a comparison of these very models: what other images of the same kind would show."""
NO_TEST = "none"
"""The basis where groups have no images in common and too few runs, or runs without spread."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One evaluated run. ``seed``: its training seed, None where unknown. ``source``: the name of
    the data set whose test split depends on that seed, as the folds of digits do; None where every
    run must have the same images. ``overlap``: of such folds, test images by training images (see
    ``means``)."""

    name: str
    result: EvaluationResult
    seed: int | None = None
    source: str | None = None
    overlap: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Runs of one configuration that differ in their training seed alone.

    Raises ``SettingError`` for a group without runs, and for two runs of one known seed, which
    would count one repetition twice.
    """

    name: str
    runs: tuple[Run, ...]

    def __post_init__(self) -> None:
        if not self.runs:
            raise SettingError(f"group {self.name!r} has no runs")
        by_seed: dict[int | None, str] = {}
        for run in self.runs:
            if run.seed is not None and run.seed in by_seed:
                raise SettingError(
                    f"{by_seed[run.seed]} and {run.name} are the same configuration with the same "
                    f"seed {run.seed}: name one of them, or two runs alone"
                )
            by_seed[run.seed] = run.name

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """The training seed of each run, None where it is unknown."""
        return tuple(run.seed for run in self.runs)


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """A group's scores: a mean over runs with a t-interval over training seeds (joined with
    Wilson's over images where all test the same, see ``means``), or the one run's share with
    Wilson's interval. ``images``: the least and the most that a run has."""

    name: str
    runs: tuple[str, ...]
    seeds: tuple[int | None, ...]
    images: tuple[int, int]
    scores: dict[str, Mean | Proportion]


@dataclass(frozen=True, kw_only=True)
class GroupContrast:
    """A group against the first one under one attack.

    ``difference``: this group minus the first, with ``low`` and ``high``. ``basis``: "paired t"
    (runs of equal seeds) or "Welch", which speak of configurations, joined with the error over
    images where all runs test the same; over folds "corrected t" or "corrected Welch" (see
    ``means``); or "images", which speaks of the single models: the sign-flip test, and the mean of
    Tango's intervals over pairs of runs; or "none", without p and interval. ``p`` is of the same
    test. ``p_images``: the sign-flip test
    over images beside a t-test, None where no images are common. Both are adjusted (Holm) for the
    table. ``detectable``: the difference that such a table would show in four of five cases, for
    an average an upper bound. Shares are fractions.
    """

    group: str
    first: str
    attack: str
    difference: float
    low: float | None
    high: float | None
    basis: str
    p: float | None
    detectable: float | None
    size: str
    p_images: float | None
    p_adjusted: float | None = None
    p_images_adjusted: float | None = None

    @property
    def told_apart(self) -> bool:
        """p below .05 after adjustment."""
        return self.p_adjusted is not None and self.p_adjusted < ALPHA

    @property
    def verdict(self) -> str:
        if self.basis == NO_TEST:
            return "no test"
        if not self.told_apart:
            return "not told apart"
        return "better" if self.difference > 0 else "worse"

    @property
    def words(self) -> str:
        """A sentence, as ``Contrast.words``."""
        if self.p_adjusted is None or self.detectable is None:
            return f"{self.attack}: {not_compared(self.group, self.first)}"
        if not self.told_apart:
            return untold(self.attack, (self.group, self.first), self.size, self.detectable)
        return (
            f"{self.attack}: {self.group} is {self.verdict} than {self.first} by "
            f"{100 * abs(self.difference):.1f} points (p {written_p(self.p_adjusted)})"
        )
