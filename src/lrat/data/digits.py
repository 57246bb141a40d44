"""The handwritten digits bundled with scikit-learn: 1,797 images of 8x8 pixels, 10 classes."""

import torch

from lrat.data.arrays import ImageData, Splits
from lrat.data.subset import VALIDATION_FRACTION, training_parts

FOLDS = 5
_FOLD_SEED = 0


def digits(
    *, seed: int = 0, validation: float = VALIDATION_FRACTION, train_limit: int | None = None
) -> Splits:
    """Test fold ``seed`` mod 5 of one fixed stratified 5-fold split; the rest trains.

    The shuffle behind the folds never changes, so the folds of seeds 0..4 partition the 1,797
    images and every image is tested once. Of the rest, first limited to ``train_limit``,
    ``validation`` is held out, stratified by ``seed``. ``index`` is the row in scikit-learn's
    arrays. Pixels are 0..16.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import StratifiedKFold

    bundled = load_digits()
    images = torch.from_numpy(bundled.images).to(torch.uint8)[:, None]
    labels = torch.from_numpy(bundled.target).long()
    every = ImageData(
        images=images,
        labels=labels,
        index=torch.arange(len(labels)),
        class_names=tuple(str(digit) for digit in range(10)),
        scale=16,
        name="digits",
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=_FOLD_SEED)
    rest, test = list(folds.split(bundled.images, bundled.target))[seed % FOLDS]
    train, held = training_parts(
        every.select(torch.from_numpy(rest)),
        train_limit=train_limit,
        validation=validation,
        seed=seed,
    )
    return Splits(train=train, validation=held, test=every.select(torch.from_numpy(test)))
