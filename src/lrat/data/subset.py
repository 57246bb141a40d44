"""Fixed, seeded, stratified subsets and hold-outs; an image keeps its index in all of them."""

import numpy as np
import torch
from torch import Tensor

from lrat.checks import ARGUMENTS, FRACTION, checked, optional
from lrat.data.arrays import ImageData
from lrat.errors import DataError

VALIDATION_FRACTION = 0.15
"""The default share of the training images that is held out for selection."""


def _choose(labels: Tensor, count: int, seed: int) -> Tensor:
    """``count`` positions out of [N], sorted; stratified where the classes allow it.

    Stratified positions are those of scikit-learn's ``train_test_split``, whose import would take
    longer than a short evaluation; NumPy guarantees the numbers of ``RandomState``.
    """
    classes, which, sizes = np.unique(labels.cpu().numpy(), return_inverse=True, return_counts=True)
    rest = len(labels) - count
    state = seed % 2**32
    # Strata are useless for classes of one image and for parts smaller than the number of classes.
    if sizes.min() < 2 or min(count, rest) < len(classes):
        chosen = np.random.default_rng(state).permutation(len(labels))[:count]
    else:
        generator = np.random.RandomState(state)
        counts = _counts(sizes, count, generator)
        _counts(sizes - counts, rest, generator)  # advances the generator as scikit-learn does
        of_classes = np.split(np.argsort(which, kind="stable"), np.cumsum(sizes)[:-1])
        chosen = np.concatenate(
            [
                rows[generator.permutation(len(rows))[:number]]
                for rows, number in zip(of_classes, counts, strict=True)
            ]
        )
    return torch.from_numpy(np.sort(chosen)).to(labels.device)


def _counts(sizes: np.ndarray, count: int, generator: np.random.RandomState) -> np.ndarray:
    """``count`` images divided among the classes in proportion to ``sizes``; the largest remainders
    are rounded up, and among equal ones ``generator`` chooses."""
    exact = sizes / sizes.sum() * count
    counts: np.ndarray = np.floor(exact).astype(int)
    missing = int(count - counts.sum())
    remainders = exact - counts
    for remainder in np.sort(np.unique(remainders))[::-1]:
        if missing == 0:
            break
        (classes,) = np.where(remainders == remainder)
        rounded_up = generator.choice(classes, size=min(len(classes), missing), replace=False)
        counts[rounded_up] += 1
        missing -= len(rounded_up)
    return counts


@checked(limit=optional(ARGUMENTS["limit"]))
def stratified_subset(data: ImageData, limit: int | None, seed: int) -> ImageData:
    """``limit`` images with the classes in proportion, in their original order; None means all.

    The choice follows from contents and seed. It is not stratified for a limit below the number of
    classes, or for classes of a single image. Raises SettingError for a limit below 1.
    """
    if limit is None or limit >= len(data):
        return data
    return data.select(_choose(data.labels, limit, seed))


@checked(fraction=FRACTION)
def hold_out(data: ImageData, fraction: float, seed: int) -> tuple[ImageData, ImageData | None]:
    """(the rest, the ``fraction`` held out), stratified, disjoint, both in their original order.

    The fraction is rounded to whole images, at least 1; for 0 the second part is None. Raises
    SettingError unless 0 <= fraction < 1, DataError where the rest would be empty.
    """
    if fraction == 0:
        return data, None
    count = max(1, round(len(data) * fraction))
    if count >= len(data):
        raise DataError(
            f"{data.name}: holding out {count} of {len(data)} images leaves none to train on: "
            "use more images or validation 0"
        )
    held = torch.zeros(len(data), dtype=torch.bool, device=data.labels.device)
    held[_choose(data.labels, count, seed)] = True
    return data.select(~held), data.select(held)


def training_parts(
    data: ImageData, *, train_limit: int | None, validation: float, seed: int
) -> tuple[ImageData, ImageData | None]:
    """The training and validation images among at most ``train_limit`` of ``data``."""
    return hold_out(stratified_subset(data, train_limit, seed), validation, seed)
