"""Two evaluations on the same images: where they differ, and whether chance explains it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.evaluation.comparison.shared import (
    AVERAGE,
    Standing,
    common_images,
    mean_difference,
    shared_attacks,
    standing,
)
from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.statistics import (
    ALPHA,
    Difference,
    Proportion,
    holm,
    mcnemar,
    mean_proportion,
    paired_difference,
    percent,
    sign_flip,
    smallest_detectable,
    wilson,
)
from lrat.text import (
    aligned,
    conclusion,
    interval,
    no_difference,
    points,
    points_and_p,
    written_p,
)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two models under one attack on the same images.

    ``difference``: a minus b with Tango's interval; ``only_a``, ``only_b``: images that this model
    alone gets right (in the average over attacks: under more attacks than the other); ``p``:
    McNemar's exact test, in the average the exact sign-flip test; ``p_adjusted``: Holm's
    correction of it for the table's ``rows``; ``detectable``: the difference that such a table
    would show in four of five cases, as a fraction.
    """

    name: str
    a: Proportion
    b: Proportion
    difference: Difference
    only_a: int
    only_b: int
    p: float
    p_adjusted: float | None = None
    rows: int = 1

    @property
    def distinguishable(self) -> bool:
        """p below .05, for this row alone."""
        return self.p < ALPHA

    @property
    def significant(self) -> bool:
        """Adjusted p below .05: what may be claimed of one row among several."""
        return self.p_of_verdict < ALPHA

    @property
    def p_of_verdict(self) -> float:
        """The p value that decides: the adjusted one where there is one."""
        return self.p if self.p_adjusted is None else self.p_adjusted

    @property
    def detectable(self) -> float:
        return smallest_detectable(self.only_a + self.only_b, self.a.n, comparisons=self.rows)

    @property
    def verdict(self) -> str:
        """``not significant``, ``a is better`` or ``b is better``."""
        if not self.significant:
            return "not significant"
        return "a is better" if self.difference.value > 0 else "b is better"

    @property
    def words(self) -> str:
        """A sentence: which is better and by how much, or what this many images could not show."""
        if not self.significant:
            return no_difference(self.name, ("a", "b"), f"n = {self.a.n}", self.detectable)
        by = points_and_p(self.difference.value, self.p_of_verdict)
        return f"{self.name}: {self.verdict} by {by}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``contrasts`` by name: natural, the shared attacks, their average where there are several,
    and the worst case over natural and all of these."""

    contrasts: dict[str, Contrast]
    n: int
    n_a: int
    n_b: int
    threat: str

    def __str__(self) -> str:
        """The table, a sentence per row, and the tests behind it."""
        header = (
            "attack",
            "a %",
            "b %",
            "a - b",
            "95 % interval",
            "only a/b",
            "p",
            "p Holm",
            "verdict",
        )
        rows = [
            (
                contrast.name,
                percent(contrast.a)[0],
                percent(contrast.b)[0],
                points(contrast.difference.value),
                interval(contrast.difference.low, contrast.difference.high),
                f"{contrast.only_a}/{contrast.only_b}",
                written_p(contrast.p),
                written_p(contrast.p_of_verdict),
                contrast.verdict,
            )
            for contrast in self.contrasts.values()
        ]
        notes = [
            f"{self.n} common images (a has {self.n_a}, b has {self.n_b}), {self.threat}; exact "
            "McNemar test (average:",
            "exact sign-flip test) with Holm's correction for the rows; Tango's interval of the "
            "paired difference",
        ]
        return "\n".join([aligned([header, *rows]), "", *self._conclusion(), "", *notes])

    def _conclusion(self) -> list[str]:
        """Who is better where, and where nobody is known to be."""
        every = self.contrasts.values()
        gains = {each.name: each.difference.value for each in every if each.significant}
        missed = {each.name: each.detectable for each in every if not each.significant}
        return conclusion(("a", "b"), gains, {f"n = {self.n}": missed})

    def record(self) -> dict[str, Any]:
        """All of it as plain values for JSON; shares and differences are fractions."""
        contrasts = {
            name: {
                **asdict(contrast),
                "detectable": contrast.detectable,
                "verdict": contrast.verdict,
                "words": contrast.words,
            }
            for name, contrast in self.contrasts.items()
        }
        sizes = {"images": self.n, "images_a": self.n_a, "images_b": self.n_b}
        return {"threat": self.threat, **sizes, "contrasts": contrasts}


def compare(a: EvaluationResult, b: EvaluationResult) -> Comparison:
    """Compare two results on the images and attacks that both have.

    Images are matched by index; the labels must agree, and so must the threat, the settings of the
    shared attacks and, where both name it in their identity, ``data``. ``EvaluationResult
    .from_folder`` reads stored ones. Raises ``SettingError`` or ``DataError`` when they do not.
    """
    attacks = shared_attacks([a, b])
    images = common_images([a, b])
    of_a, of_b = standing(a, attacks, images), standing(b, attacks, images)
    contrasts = contrasts_of(of_a, of_b, attacks)
    adjusted = holm([contrast.p for contrast in contrasts.values()])
    return Comparison(
        contrasts={
            name: replace(contrast, p_adjusted=p, rows=len(contrasts))
            for (name, contrast), p in zip(contrasts.items(), adjusted, strict=True)
        },
        n=len(images),
        n_a=len(a.index),
        n_b=len(b.index),
        threat=a.threat,
    )


def contrasts_of(a: Standing, b: Standing, attacks: Sequence[str]) -> dict[str, Contrast]:
    """A contrast for each row of two standings on the same images, p not adjusted."""
    contrasts = {name: _contrast(name, a[name], b[name]) for name in a if name != AVERAGE}
    if AVERAGE in a:
        parts = [contrasts[name] for name in attacks]
        gaps = a[AVERAGE] - b[AVERAGE]
        contrasts[AVERAGE] = Contrast(
            name=AVERAGE,
            a=mean_proportion([part.a for part in parts]),
            b=mean_proportion([part.b for part in parts]),
            difference=mean_difference([part.difference for part in parts]),
            only_a=int((gaps > 0).sum()),
            only_b=int((gaps < 0).sum()),
            p=sign_flip(gaps),
        )
    return {name: contrasts[name] for name in a}


def _contrast(
    name: str, right_a: npt.NDArray[np.int64], right_b: npt.NDArray[np.int64]
) -> Contrast:
    n = len(right_a)
    only_a, only_b = int((right_a > right_b).sum()), int((right_b > right_a).sum())
    return Contrast(
        name=name,
        a=wilson(int(right_a.sum()), n),
        b=wilson(int(right_b.sum()), n),
        difference=paired_difference(only_a, only_b, n),
        only_a=only_a,
        only_b=only_b,
        p=mcnemar(only_a, only_b),
    )
