"""Runs of one configuration with other training seeds, and what sets two such groups apart.

A comparison of groups as tables to read, in per cent, at 100 columns.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lrat.errors import SettingError
from lrat.evaluation.comparison.seeds import Mean
from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.statistics import ALPHA, Proportion
from lrat.text import (
    DASH,
    WIDTH,
    aligned,
    conclusion,
    interval,
    no_difference,
    not_compared,
    paragraph,
    points,
    points_and_p,
    written_p,
)

IMAGES = "images"
"""The basis of a comparison of these very models: what other images of the same kind would show."""
NO_TEST = "none"
"""The basis where groups have no images in common and too few runs, or runs without spread."""

_MOST_SEEDS = 5


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
    def significant(self) -> bool:
        """p below .05 after adjustment."""
        return self.p_adjusted is not None and self.p_adjusted < ALPHA

    @property
    def verdict(self) -> str:
        if self.basis == NO_TEST:
            return "no test"
        if not self.significant:
            return "not significant"
        return "better" if self.difference > 0 else "worse"

    @property
    def words(self) -> str:
        """A sentence, as ``Contrast.words``."""
        if self.p_adjusted is None or self.detectable is None:
            return f"{self.attack}: {not_compared(self.group, self.first)}"
        if not self.significant:
            return no_difference(self.attack, (self.group, self.first), self.size, self.detectable)
        by = points_and_p(self.difference, self.p_adjusted)
        return f"{self.attack}: {self.group} is {self.verdict} than {self.first} by {by}"


@dataclass(frozen=True, kw_only=True)
class GroupComparison:
    """``rows``: the groups; ``contrasts``: every later group against the first, by attack."""

    rows: tuple[GroupRow, ...]
    contrasts: tuple[GroupContrast, ...]
    threat: str

    def __str__(self) -> str:
        """The groups' scores, a table for every later group against the first, and sentences."""
        blocks = [*_scores(self.rows), _about_scores(self.rows, self.threat)]
        blocks += [
            _against_first([each for each in self.contrasts if each.group == row.name])
            for row in self.rows[1:]
        ]
        if self.contrasts:
            blocks.append(_about_tests(self.contrasts))
        return "\n\n".join(blocks)

    def record(self) -> dict[str, Any]:
        """All of it as plain values for JSON; shares and differences are fractions."""
        contrasts = [
            {**asdict(contrast), "verdict": contrast.verdict, "words": contrast.words}
            for contrast in self.contrasts
        ]
        groups = [asdict(row) for row in self.rows]
        return {"threat": self.threat, "groups": groups, "contrasts": contrasts}


def _scores(rows: Sequence[GroupRow]) -> list[str]:
    """Two lines per group, the ends of the intervals below the values; as many tables as the
    width asks for."""
    about = [("group", "seeds")]
    for row in rows:
        about += [(row.name, _seeds(row)), ("", "")]
    columns = [
        (name, *(cell for row in rows for cell in _cells(row.scores[name])))
        for name in rows[0].scores
    ]
    tables: list[str] = []
    while columns:
        left = [[line[0] for line in about]] if tables else list(zip(*about, strict=True))
        used = sum(_wide(column) for column in left)
        taken = [list(columns.pop(0))]
        while columns and used + sum(map(_wide, (*taken, columns[0]))) <= WIDTH + 2:
            taken.append(list(columns.pop(0)))
        tables.append(aligned(list(zip(*left, *taken, strict=True))))
    return tables


def _wide(column: Sequence[str]) -> int:
    return max(map(len, column)) + 2


def _cells(score: Mean | Proportion) -> tuple[str, str]:
    value = f"{100 * score.value:.2f}"
    if score.low is None or score.high is None:
        return value, DASH
    return value, f"{100 * score.low:.1f}-{100 * score.high:.1f}"


def _seeds(row: GroupRow) -> str:
    """``0 1 2``, ``12: 0 to 11``; how many runs where their seeds are unknown."""
    known = sorted(seed for seed in row.seeds if seed is not None)
    if len(known) < len(row.seeds):
        return DASH
    if len(known) > _MOST_SEEDS:
        return f"{len(known)}: {known[0]} to {known[-1]}"
    return " ".join(map(str, known))


def _about_scores(rows: Sequence[GroupRow], threat: str) -> str:
    single = any(len(row.runs) == 1 for row in rows)
    several = any(len(row.runs) > 1 for row in rows)
    over_seeds = (
        "Student's t over training seeds for several runs; corrected where they are folds\n"
        "(Nadeau & Bengio 2003), else joined with Wilson's over their images (Zou & Donner 2008)"
    )
    kinds = [
        *([over_seeds] if several else []),
        *(["Wilson's over images for a single run"] if single else []),
    ]
    least, most = min(row.images[0] for row in rows), max(row.images[1] for row in rows)
    images = str(least) if least == most else f"{least} to {most}"
    return (
        f"accuracy in per cent, {images} images per run, {threat}; below it the 95 % interval:\n"
        + ";\n".join(kinds)
    )


def _against_first(contrasts: Sequence[GroupContrast]) -> str:
    over_seeds = any(each.basis != IMAGES for each in contrasts)
    header = (
        "attack",
        "difference",
        "95 % interval",
        "basis",
        "p",
        "p Holm",
        "p images",
        "verdict",
    )
    cells = [
        (
            each.attack,
            points(each.difference),
            interval(each.low, each.high),
            each.basis,
            *map(written_p, (each.p, each.p_adjusted, each.p_images_adjusted)),
            each.verdict,
        )
        for each in contrasts
    ]
    # Where every test is over images, a column of its own would repeat it.
    lines = [line if over_seeds else (*line[:-2], line[-1]) for line in (header, *cells)]
    title = f"{contrasts[0].group} against {contrasts[0].first}"
    return "\n".join([title, aligned(lines), "", *_conclusion(contrasts)])


def _conclusion(contrasts: Sequence[GroupContrast]) -> list[str]:
    """Which is better in which rows, and in which rows no difference is significant."""
    group, first = contrasts[0].group, contrasts[0].first
    gains = {each.attack: each.difference for each in contrasts if each.significant}
    missed: dict[str, dict[str, float]] = {}
    for each in contrasts:
        if not each.significant and each.detectable is not None:
            missed.setdefault(each.size, {})[each.attack] = each.detectable
    without = [each.attack for each in contrasts if each.basis == NO_TEST]
    lines = conclusion((group, first), gains, missed)
    return lines + paragraph(not_compared(group, first), without)


def _about_tests(contrasts: Sequence[GroupContrast]) -> str:
    """Which tests were used, and what they hold for."""
    tests = sum(each.basis != NO_TEST for each in contrasts)
    lines = ["difference in points" + (f"; p Holm: adjusted for {tests} comparisons" * bool(tests))]
    bases = {each.basis for each in contrasts}
    if IMAGES in bases:
        lines += [
            "basis images: exact sign-flip test over images (McNemar's for two runs under one",
            "attack), Tango's interval; whether these models differ, not whether their methods do:",
            "for that, evaluate several seeds of each",
        ]
    if bases & {"paired t", "Welch"}:
        lines += [
            "basis paired t, Welch: over training seeds, joined with the error over images where",
            "all runs test the same (Zou & Donner 2008)",
        ]
    if bases & {"corrected t", "corrected Welch"}:
        lines += [
            "basis corrected t, corrected Welch: over folds, whose training images overlap",
            "(Nadeau & Bengio 2003)",
        ]
    if bases - {IMAGES, NO_TEST}:
        lines.append(
            "p images: exact sign-flip test over the images of these very models, adjusted likewise"
        )
    return "\n".join(lines)
