"""A user's files: the keys that are read, and one line for every file that is refused."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrat.data import load_npz
from lrat.errors import DataError


def pictures(count: int, *, first: int = 0) -> np.ndarray[Any, Any]:
    return (
        np.full((count, 5, 5), first, dtype=np.uint8)
        + np.arange(count, dtype=np.uint8)[:, None, None]
    )


def classes(count: int) -> np.ndarray[Any, Any]:
    return np.arange(count) % 3


def write(folder: Path, **arrays: Any) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_npz(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (("train_images", "train_labels"), ("test_images", "test_labels")),
        (("x_train", "y_train"), ("x_test", "y_test")),
    ],
)
def test_training_and_test_images(
    tmp_path: Path, train: tuple[str, str], test: tuple[str, str]
) -> None:
    arrays = dict(zip(train, (pictures(60), classes(60)), strict=True))
    arrays |= dict(zip(test, (pictures(9), classes(9)), strict=True))
    splits = load_npz(write(tmp_path, **arrays))
    assert splits.validation is not None
    assert (len(splits.training()), len(splits.validation), len(splits.test)) == (51, 9, 9)
    assert splits.test.images[:, 0, 0, 0].tolist() == list(range(9))
    parts = (splits.training(), splits.validation)
    for part in parts:
        assert part.images[:, 0, 0, 0].tolist() == part.index.tolist()
    assert sorted(index for part in parts for index in part.index.tolist()) == list(range(60))


@pytest.mark.parametrize("keys", [("images", "labels"), ("x", "y"), ("test_images", "test_labels")])
def test_a_file_for_evaluation_needs_one_pair(tmp_path: Path, keys: tuple[str, str]) -> None:
    splits = load_npz(write(tmp_path, **{keys[0]: pictures(4), keys[1]: classes(4)}))
    assert splits.train is None
    assert splits.validation is None
    assert splits.test.shape == (1, 5, 5)


def test_validation_images_of_the_file_are_used_and_nothing_is_held_out(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        train_images=pictures(30),
        train_labels=classes(30),
        val_images=pictures(6, first=100),
        val_labels=classes(6),
        test_images=pictures(3),
        test_labels=np.zeros(3, dtype=np.int64),
    )
    splits = load_npz(path)
    assert splits.validation is not None
    assert len(splits.training()) == 30
    assert splits.validation.images.min() == 100
    assert splits.test.classes == 3
    assert len(load_npz(path, train_limit=12).training()) == 12


def test_class_names_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, x=pictures(4), y=classes(4), class_names=["cat", "dog", "owl", "yak"])
    assert load_npz(path).test.class_names == ("cat", "dog", "owl", "yak")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": pictures(4), "labels": classes(4)}, "labels but no images"),
        ({"pictures": pictures(4)}, "keys are pictures"),
        ({"train_images": pictures(4), "train_labels": classes(4)}, "train_images, train_labels"),
        ({"images": pictures(4)}, "images but no labels"),
        ({"images": pictures(4), "labels": classes(3)}, "4 images but 3 labels"),
        ({"images": np.array([None, "x"]), "labels": classes(2)}, "Python objects"),
        ({"images": pictures(4) * 1.0, "labels": classes(4)}, re.escape("[0, 3]")),
        ({"images": pictures(4).astype(int), "labels": classes(4)}, "int64"),
        ({"images": pictures(4), "labels": classes(4) - 5}, "-5"),
        ({"images": pictures(4), "labels": classes(4) + 10**9}, "1000000000"),
        ({"images": np.zeros((0, 5, 5), np.uint8), "labels": classes(0)}, "empty"),
        ({"images": pictures(4), "labels": classes(4), "class_names": ["a", "b"]}, "2 occur"),
        ({"images": pictures(4), "labels": classes(4), "class_names": [1, 2, 3]}, "text"),
    ],
)
def test_contents_that_do_not_fit_are_refused(
    tmp_path: Path, arrays: dict[str, Any], words: str
) -> None:
    assert re.search(words, refusal(write(tmp_path, **arrays)))


def test_files_that_are_not_what_their_name_says_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "absent.npz")
    assert "not an .npz" in refusal(tmp_path)
    text = tmp_path / "text.npz"
    text.write_text("hello")
    assert "not an .npz" in refusal(text)
    pickled = tmp_path / "pickle.npz"
    pickled.write_bytes(pickle.dumps({"images": 1}))
    assert "not an .npz" in refusal(pickled)
    single = tmp_path / "single.npz"
    with single.open("wb") as file:
        np.save(file, pictures(3))
    assert "not an .npz" in refusal(single)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, images=pictures(40), labels=classes(40))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "data.npz" in refusal(path)
    middle = bytearray(whole)
    middle[600] ^= 0xFF
    path.write_bytes(bytes(middle))
    assert "cannot be read" in refusal(path)
