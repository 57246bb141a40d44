"""The handwritten digits bundled with scikit-learn: 1,797 images of 8x8 pixels, 10 classes."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lrat.data.arrays import ImageData, Splits
from lrat.data.subset import VALIDATION_FRACTION, training_parts
from lrat.errors import DataError

FOLDS = 5
_FOLD_SEED = 0


def digits(
    *, seed: int = 0, validation: float = VALIDATION_FRACTION, train_limit: int | None = None
) -> Splits:
    """Test fold ``seed`` mod 5 of one fixed stratified 5-fold split; the rest trains.

    The shuffle behind the folds never changes, so the folds of seeds 0..4 partition the 1,797
    images, and every image is in one test fold. Of the others, first limited to ``train_limit``,
    ``validation`` is held out, stratified by ``seed``. ``index`` is the row in scikit-learn's
    arrays. Pixels are 0..16. Raises DataError where scikit-learn's copy is missing.
    """
    images, labels = _bundled()
    every = ImageData(
        images=images,
        labels=labels,
        index=torch.arange(len(labels)),
        class_names=tuple(str(digit) for digit in range(10)),
        scale=16,
        name="digits",
    )
    is_tested = _folds(labels.numpy()) == seed % FOLDS
    rest, test = (np.flatnonzero(rows) for rows in (~is_tested, is_tested))
    train, held = training_parts(
        every.select(torch.from_numpy(rest)),
        train_limit=train_limit,
        validation=validation,
        seed=seed,
    )
    return Splits(train=train, validation=held, test=every.select(torch.from_numpy(test)))


def _bundled() -> tuple[Tensor, Tensor]:
    """Images [1797 1 8 8] and labels [1797], read without importing scikit-learn, which would take
    longer than a short evaluation."""
    package = find_spec("sklearn")
    folders = () if package is None else package.submodule_search_locations or ()
    path = next(iter(folders), "") / Path("datasets", "data", "digits.csv.gz")
    if not path.exists():
        raise DataError("the digits are files of scikit-learn: install scikit-learn")
    table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.uint8))
    return table[:, :64].reshape(-1, 1, 8, 8).clone(), table[:, 64].long()


def _folds(labels: np.ndarray) -> np.ndarray:
    """The fold [N] that tests each image: scikit-learn's ``StratifiedKFold(5, shuffle=True)``.

    Classes are numbered in the order in which they appear, as there; NumPy guarantees the numbers
    of ``RandomState``.
    """
    _, first, which = np.unique(labels, return_index=True, return_inverse=True)
    which = np.argsort(np.argsort(first))[which]
    in_order, state = np.sort(which), np.random.RandomState(_FOLD_SEED)
    sizes = [np.bincount(in_order[fold::FOLDS], minlength=len(first)) for fold in range(FOLDS)]
    folds = np.empty(len(labels), dtype=int)
    for number, counts in enumerate(np.transpose(sizes)):
        of_class = np.arange(FOLDS).repeat(counts)
        state.shuffle(of_class)
        folds[which == number] = of_class
    return folds
