"""Two evaluations on the same images: where they differ, and whether chance explains it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrat.errors import DataError, SettingError
from lrat.evaluation.outcomes import Outcomes
from lrat.evaluation.result import EvaluationResult, aligned, percent
from lrat.evaluation.statistics import (
    ALPHA,
    Difference,
    Proportion,
    mcnemar,
    paired_difference,
    wilson,
)
from lrat.evaluation.suites import NATURAL

WORST_CASE = "worst case"


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two models under one attack on the same images.

    ``difference``: a minus b with Tango's interval; ``only_a``, ``only_b``: images that this model
    alone gets right; ``p``: McNemar's exact test.
    """

    name: str
    a: Proportion
    b: Proportion
    difference: Difference
    only_a: int
    only_b: int
    p: float

    @property
    def distinguishable(self) -> bool:
        """p below .05."""
        return self.p < ALPHA

    @property
    def verdict(self) -> str:
        if not self.distinguishable:
            return f"cannot be told apart on {self.a.n} images"
        return "a is better" if self.only_a > self.only_b else "b is better"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``contrasts`` by name: natural, the shared attacks, and the worst case over all of these."""

    contrasts: dict[str, Contrast]
    n: int
    n_a: int
    n_b: int
    threat: str

    def __str__(self) -> str:
        header = (
            "attack",
            "a %",
            "b %",
            "a - b",
            "95 % interval",
            "only a",
            "only b",
            "p",
            "verdict",
        )
        rows: list[tuple[str, ...]] = [header]
        for contrast in self.contrasts.values():
            gap = contrast.difference
            rows.append(
                (
                    contrast.name,
                    percent(contrast.a)[0],
                    percent(contrast.b)[0],
                    f"{100 * gap.value:+.2f}",
                    f"{100 * gap.low:+.2f} to {100 * gap.high:+.2f}",
                    str(contrast.only_a),
                    str(contrast.only_b),
                    f"{contrast.p:.4f}" if contrast.p >= 1e-4 else "<.0001",
                    contrast.verdict,
                )
            )
        return (
            f"{aligned(rows)}\n"
            f"{self.n} common images (a has {self.n_a}, b has {self.n_b}), {self.threat}; exact "
            f"McNemar test at {ALPHA:g} per row, not corrected for the number of rows; "
            "Tango's interval of the paired difference"
        )


def compare(a: EvaluationResult, b: EvaluationResult) -> Comparison:
    """Compare two results on the images and attacks that both have.

    Images are matched by index; the labels must agree, and so must the threat, the settings of the
    shared attacks and, where both name it in their identity, ``data``. ``EvaluationResult
    .from_folder`` reads stored ones. Raises ``SettingError`` or ``DataError`` when they do not.
    """
    attacks = _shared_attacks(a, b)
    images = _common_images(a, b)
    stands = {
        name: (_stands(a.outcomes, name, images), _stands(b.outcomes, name, images))
        for name in attacks
    }
    worst = [np.logical_and.reduce(side) for side in zip(*stands.values(), strict=True)]
    stands[WORST_CASE] = (worst[0], worst[1])
    return Comparison(
        contrasts={name: _contrast(name, *sides) for name, sides in stands.items()},
        n=len(images),
        n_a=len(a.index),
        n_b=len(b.index),
        threat=a.threat,
    )


def _shared_attacks(a: EvaluationResult, b: EvaluationResult) -> list[str]:
    if a.threat != b.threat:
        raise SettingError(
            f"the threats differ ({a.threat} and {b.threat}): evaluate both under one"
        )
    of_a, of_b = a.identity["attacks"], b.identity["attacks"]
    shared = [name for name in of_a if name in of_b]
    if not shared and (of_a or of_b):
        raise SettingError(
            f"no attack in common ({', '.join(of_a) or 'none'} and {', '.join(of_b) or 'none'}): "
            "evaluate both with one suite"
        )
    for name in shared:
        if of_a[name] != of_b[name]:
            raise SettingError(
                f"{name} has other settings in a ({of_a[name]}) than in b ({of_b[name]}): "
                "evaluate both with one suite"
            )
    return [NATURAL, *shared]


def _common_images(a: EvaluationResult, b: EvaluationResult) -> npt.NDArray[np.int64]:
    data_a, data_b = a.identity.get("data"), b.identity.get("data")
    if data_a is not None and data_b is not None and data_a != data_b:
        raise DataError(f"the data differ ({data_a} and {data_b}): evaluate both on the same")
    images = np.intersect1d(a.index, b.index)
    if not len(images):
        raise DataError("the two evaluations have no image in common: evaluate both on the same")
    labels_a = a.outcomes.under(NATURAL).at(images).label
    labels_b = b.outcomes.under(NATURAL).at(images).label
    other = np.flatnonzero(labels_a != labels_b)
    if len(other):
        at = other[0]
        raise DataError(
            f"the data differ: image {images[at]} has label {labels_a[at]} in a and "
            f"{labels_b[at]} in b ({len(other)} such images); evaluate both on the same"
        )
    return images


def _stands(outcomes: Outcomes, name: str, images: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    stands: npt.NDArray[np.bool_] = ~outcomes.under(name).at(images).fooled
    return stands


def _contrast(
    name: str, right_a: npt.NDArray[np.bool_], right_b: npt.NDArray[np.bool_]
) -> Contrast:
    n = len(right_a)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return Contrast(
        name=name,
        a=wilson(int(right_a.sum()), n),
        b=wilson(int(right_b.sum()), n),
        difference=paired_difference(only_a, only_b, n),
        only_a=only_a,
        only_b=only_b,
        p=mcnemar(only_a, only_b),
    )
