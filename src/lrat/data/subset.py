"""Fixed, seeded, stratified subsets and hold-outs; an image keeps its index in all of them."""

import numpy as np
import torch
from torch import Tensor

from lrat.checks import ARGUMENTS, FRACTION, checked, optional
from lrat.data.arrays import ImageData
from lrat.errors import DataError

VALIDATION_FRACTION = 0.15
"""The share of the training images held out for selection unless a caller says otherwise."""


def _choose(labels: Tensor, count: int, seed: int) -> Tensor:
    """``count`` positions out of [N], sorted; stratified where the classes allow it."""
    classes, sizes = np.unique(labels.cpu().numpy(), return_counts=True)
    rest = len(labels) - count
    positions = np.arange(len(labels))
    state = seed % 2**32
    # scikit-learn refuses to stratify with classes of one image or parts smaller than the number of
    # classes; strata mean little there, so such a choice is a plain one.
    if sizes.min() < 2 or min(count, rest) < len(classes):
        chosen = np.random.default_rng(state).permutation(positions)[:count]
    else:
        from sklearn.model_selection import train_test_split

        chosen, _ = train_test_split(
            positions, train_size=count, stratify=labels.cpu().numpy(), random_state=state
        )
    return torch.from_numpy(np.sort(chosen)).to(labels.device)


@checked(limit=optional(ARGUMENTS["limit"]))
def stratified_subset(data: ImageData, limit: int | None, seed: int) -> ImageData:
    """``limit`` images with the classes in proportion, in their original order; all where fewer.

    The same for the same contents and seed. None means all. A limit below the number of classes
    (or classes of a single image) cannot be stratified: then it is a plain seeded choice. Raises
    SettingError for a limit below 1.
    """
    if limit is None:
        return data
    if limit >= len(data):
        return data
    return data.select(_choose(data.labels, limit, seed))


@checked(fraction=FRACTION)
def hold_out(data: ImageData, fraction: float, seed: int) -> tuple[ImageData, ImageData | None]:
    """(the rest, the ``fraction`` held out), stratified, disjoint, both in their original order.

    Rounded to whole images, at least 1; fraction 0 holds nothing out (None). Raises SettingError
    unless 0 <= fraction < 1, DataError where nothing would be left.
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
    """The limit first, then the hold-out from what is left: ``train_limit`` counts both parts."""
    return hold_out(stratified_subset(data, train_limit, seed), validation, seed)
