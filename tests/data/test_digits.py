"""The bundled digits: fixed folds, stratified, disjoint parts."""

import sys

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

from lrat.data import Splits, digits
from lrat.errors import DataError


@pytest.fixture(scope="module")
def folds() -> list[Splits]:
    return [digits(seed=seed) for seed in range(5)]


def test_the_test_folds_partition_all_images(folds: list[Splits]) -> None:
    tested = torch.cat([splits.test.index for splits in folds])
    assert torch.equal(tested.sort().values, torch.arange(1797))


def test_the_folds_are_those_of_scikit_learn(folds: list[Splits]) -> None:
    bundled = load_digits()
    expected = StratifiedKFold(5, shuffle=True, random_state=0)
    for splits, (_, test) in zip(
        folds, expected.split(bundled.images, bundled.target), strict=True
    ):
        assert splits.test.index.tolist() == test.tolist()


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[digits.__module__], "find_spec", lambda _: None)
    with pytest.raises(DataError, match="install scikit-learn"):
        digits()


def test_parts_are_disjoint_and_complete(folds: list[Splits]) -> None:
    for splits in folds:
        assert splits.validation is not None
        parts = [splits.training().index, splits.validation.index, splits.test.index]
        assert torch.equal(torch.cat(parts).sort().values, torch.arange(1797))
        assert len(splits.validation) == round(0.15 * (1797 - len(splits.test)))


def test_parts_are_stratified(folds: list[Splits]) -> None:
    whole = torch.from_numpy(load_digits().target).bincount() / 1797
    for splits in folds:
        assert splits.validation is not None
        for part in (splits.training(), splits.validation, splits.test):
            share = part.labels.bincount(minlength=10) / len(part)
            assert (share - whole).abs().max() < 0.006


def test_the_fold_is_the_seed_modulo_five(folds: list[Splits]) -> None:
    again = digits(seed=7)
    assert again.test.digest() == folds[2].test.digest()
    assert again.training().digest() != folds[2].training().digest()


def test_pixels_and_labels_are_those_of_the_rows(folds: list[Splits]) -> None:
    bundled = load_digits()
    batch = folds[1].test.batch(slice(None))
    expected = torch.from_numpy(bundled.images[batch.index.numpy()] / 16).float()[:, None]
    assert torch.equal(batch.images, expected)
    assert batch.labels.tolist() == bundled.target[batch.index.numpy()].tolist()


def test_the_limit_counts_training_and_validation() -> None:
    splits = digits(seed=0, train_limit=200, validation=0.1)
    assert splits.validation is not None
    assert (len(splits.training()), len(splits.validation)) == (180, 20)
    assert digits(seed=0, validation=0).validation is None
