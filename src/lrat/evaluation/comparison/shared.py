"""What several evaluations have in common: attacks, images, and scores of robustness on them.

Several attacks in one number beside the worst case: the average and the union.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lrat.errors import DataError, SettingError
from lrat.evaluation.outcomes import NATURAL
from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.statistics import Difference, Proportion, mean_of

AVERAGE = "average"
"""The mean of the accuracies under the attacks of a suite, without the natural one."""
WORST_CASE = "worst case"

_DIGITS = 8

Standing = dict[str, npt.NDArray[np.int64]]
"""By row of a table, for each image how many attacks of the row it withstands: 0 or 1 under one
attack and in the worst case, 0 to the number of attacks in the average."""


def shared_attacks(
    results: Sequence[EvaluationResult], names: Sequence[str] = ("a", "b")
) -> list[str]:
    """The attacks that all results have, in the first one's order, without ``natural``.

    ``names``: what errors call the results. Raises ``SettingError`` where threats or the settings
    of a shared attack differ, or no attack is shared.
    """
    first = results[0]
    shared = attacks_of(first)
    for name, other in zip(names[1:], results[1:], strict=True):
        both = _attacks_of_both(first, other, names[0], name)
        shared = [attack for attack in shared if attack in both]
    if not shared and all(map(attacks_of, results)):
        raise SettingError("no attack is in all evaluations: evaluate all with one suite")
    return shared


def attacks_of(result: EvaluationResult) -> list[str]:
    """The names of a result's attacks; a cascade is one attack."""
    return list(result.names[1:])


def common_images(
    results: Sequence[EvaluationResult], names: Sequence[str] = ("a", "b")
) -> npt.NDArray[np.int64]:
    """The numbers of the images that all results have, ascending.

    ``names``: what errors call the results. Raises ``DataError`` where data or labels differ, or no
    image is common.
    """
    first = results[0]
    images = first.index
    for name, other in zip(names[1:], results[1:], strict=True):
        images = np.intersect1d(images, _images_of_both(first, other, names[0], name))
    if not len(images):
        raise DataError("the evaluations have no image in common: evaluate all on the same")
    return images


def standing(
    result: EvaluationResult, attacks: Sequence[str], images: npt.NDArray[np.int64]
) -> Standing:
    """What ``result`` withstands on ``images``: natural, each attack, average, worst case."""
    positions = np.searchsorted(result.index, images)
    rows: Standing = {
        name: result.robust([name])[positions].astype(np.int64) for name in (NATURAL, *attacks)
    }
    worst = np.minimum.reduce(list(rows.values()))
    if len(attacks) > 1:
        rows[AVERAGE] = np.sum([rows[name] for name in attacks], axis=0)
    return {**rows, WORST_CASE: worst}


def image_error(a: Sequence[npt.NDArray[np.int64]], b: Sequence[npt.NDArray[np.int64]]) -> float:
    """The standard error over images of the difference of two groups' mean scores: each array [n]
    holds a run's scores on the same images."""
    gaps = np.mean(a, axis=0) - np.mean(b, axis=0)
    return float(np.std(gaps)) / math.sqrt(len(gaps))


def _attacks_of_both(
    a: EvaluationResult, b: EvaluationResult, name_a: str, name_b: str
) -> list[str]:
    if a.threat != b.threat:
        raise SettingError(
            f"the threats differ ({a.threat} in {name_a} and {b.threat} in {name_b}): evaluate "
            "both under one"
        )
    of_a, of_b = attacks_of(a), attacks_of(b)
    shared = [name for name in of_a if name in of_b]
    if not shared and (of_a or of_b):
        raise SettingError(
            f"no attack in common ({', '.join(of_a) or 'none'} and {', '.join(of_b) or 'none'}): "
            "evaluate both with one suite"
        )
    for name in shared:
        settings_a, settings_b = _settings(a, name), _settings(b, name)
        if settings_a != settings_b:
            raise SettingError(
                f"{name} has other settings in {name_a} ({settings_a}) than in {name_b} "
                f"({settings_b}): evaluate both with one suite"
            )
    return shared


def _settings(result: EvaluationResult, attack: str) -> str:
    """An attack's settings; of a cascade those of its stages, ``autoattack.fab-t`` and so on."""
    every = result.identity["attacks"]
    parts = [name for name in every if name == attack or name.startswith(f"{attack}.")]
    return "; ".join(str(every[name]) for name in parts)


def _images_of_both(
    a: EvaluationResult, b: EvaluationResult, name_a: str, name_b: str
) -> npt.NDArray[np.int64]:
    data_a, data_b = a.identity.get("data"), b.identity.get("data")
    if data_a is not None and data_b is not None and data_a != data_b:
        raise DataError(
            f"the data differ ({data_a[:_DIGITS]} and {data_b[:_DIGITS]}): evaluate both "
            "on the same"
        )
    images = np.intersect1d(a.index, b.index)
    if not len(images):
        raise DataError("the two evaluations have no image in common: evaluate both on the same")
    labels_a = a.outcomes.under(NATURAL).at(images).label
    labels_b = b.outcomes.under(NATURAL).at(images).label
    other = np.flatnonzero(labels_a != labels_b)
    if len(other):
        at = other[0]
        raise DataError(
            f"the data differ: image {images[at]} has label {labels_a[at]} in {name_a} and "
            f"{labels_b[at]} in {name_b} ({len(other)} such images); evaluate both on the same"
        )
    return images


def average_accuracy(result: EvaluationResult) -> Proportion | None:
    """The mean of the accuracies under a result's attacks; None for a result without attacks.

    The ends are the means of the attacks' Wilson ends. Such an interval is never too narrow: the
    standard deviation of a mean is at most the mean of the standard deviations, and equal to it
    where the attacks fool the same images.
    """
    return result.average


def fooled_by_any(result: EvaluationResult) -> Proportion:
    """The share of images in the union of all attacks' successes, those that are wrong when clean
    included: 1 - worst case."""
    robust = result.worst_case
    return Proportion(value=1 - robust.value, low=1 - robust.high, high=1 - robust.low, n=robust.n)


def mean_difference(differences: Sequence[Difference]) -> Difference:
    """The mean of paired differences on the same images, its ends as in ``average_accuracy``."""
    return Difference(
        value=mean_of(each.value for each in differences),
        low=mean_of(each.low for each in differences),
        high=mean_of(each.high for each in differences),
        n=differences[0].n,
    )
