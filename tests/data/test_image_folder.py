"""Folders of images: layouts, kinds of files, and one line for every folder that is refused."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lrat.data import image_folder
from lrat.errors import DataError

CLASSES = ("cat", "dog", "eel")


def save(path: Path, level: int, *, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    """An image of one colour, grey ``level``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (level,) * len(mode) if len(mode) > 1 else level).save(path)
    return path


def fill(folder: Path, count: int, *, classes: tuple[str, ...] = CLASSES) -> Path:
    """``count`` images of each class, each with a level of its own."""
    for label, name in enumerate(classes):
        for number in range(count):
            save(folder / name / f"{number:03}.png", 10 * number + label)
    return folder


def levels(data: Any) -> list[int]:
    return [int(level) for level in data.images[:, 0, 0, 0]]


def refusal(folder: Path, **chosen: Any) -> str:
    with pytest.raises(DataError) as caught:
        image_folder(folder, **chosen)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_folder_is_split_the_same_for_every_seed(tmp_path: Path) -> None:
    one, other = (image_folder(fill(tmp_path, 20), seed=seed) for seed in (0, 1))
    assert one.train is not None
    assert one.validation is not None
    assert other.train is not None
    assert [len(part) for part in (one.train, one.validation, one.test)] == [41, 7, 12]
    assert one.test.class_names == CLASSES
    assert torch.bincount(one.test.labels).tolist() == [4, 4, 4]
    assert one.test.digest() == other.test.digest()
    assert one.train.digest() != other.train.digest()
    parts = (one.train, one.validation, one.test)
    assert sorted(int(each) for part in parts for each in part.index) == list(range(60))
    for part in parts:  # an index is the place among the files, sorted by class and name
        expected = [10 * (each % 20) + each // 20 for each in part.index.tolist()]
        assert levels(part) == expected
        assert part.labels.tolist() == [each // 20 for each in part.index.tolist()]


@pytest.mark.parametrize("names", [("train", "val", "test"), ("training", "validation", "testing")])
def test_parts_are_taken_as_they_are(names: tuple[str, str, str], tmp_path: Path) -> None:
    for name, count in zip(names, (5, 2, 3), strict=True):
        fill(tmp_path / name, count)
    splits = image_folder(tmp_path, train_limit=6)
    assert splits.train is not None
    assert splits.validation is not None
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [6, 6, 9]


def test_without_test_images_the_held_out_ones_are_tested_on(tmp_path: Path) -> None:
    for name, count in (("train", 10), ("val", 4)):
        fill(tmp_path / name, count)
    splits = image_folder(tmp_path, validation=0)
    assert splits.validation is None
    assert len(splits.test) == 12


def test_test_images_alone_are_for_evaluation(tmp_path: Path) -> None:
    fill(tmp_path / "test", 2)
    splits = image_folder(tmp_path)
    assert (splits.train, len(splits.test)) == (None, 6)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_pixels_is_read(mode: str, channels: int, tmp_path: Path) -> None:
    fill(tmp_path / "test", 1)
    image = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    image.save(tmp_path / "test" / "cat" / ("b.jpg" if mode == "CMYK" else "b.png"))
    test = image_folder(tmp_path, channels=channels).test
    assert test.shape == (channels, 8, 8)
    assert int(test.images[1].min()) >= 253


@pytest.mark.parametrize("size", [None, 8])
def test_images_of_16_bits_keep_their_levels(size: int | None, tmp_path: Path) -> None:
    fill(tmp_path / "test", 1)
    pixels = np.full((8, 8), 100 * 257, dtype=np.uint16)
    pixels[0] = 65535
    Image.fromarray(pixels).save(tmp_path / "test" / "cat" / "b.png")
    image = image_folder(tmp_path, size=size).test.images[1]
    assert (int(image[0, 0, 0]), int(image[0, 4, 4])) == (255, 100)


def test_a_dark_image_of_16_bits_is_no_image_of_8(tmp_path: Path) -> None:
    fill(tmp_path / "test", 1)
    Image.fromarray(np.full((8, 8), 200, dtype=np.uint16)).save(tmp_path / "test" / "cat" / "b.png")
    assert int(image_folder(tmp_path).test.images[1].max()) == 1


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_without_a_known_range_are_named(
    kind: type, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path / "test", 1)
    Image.fromarray(np.full((8, 8), 1, dtype=kind)).save(tmp_path / "test" / "cat" / "b.tif")
    assert len(image_folder(tmp_path).test) == 3
    assert "b.tif" in caplog.text
    assert "32 bits" in caplog.text


def test_other_sizes_are_resized_and_cut(tmp_path: Path) -> None:
    fill(tmp_path / "test", 1)
    wide = np.zeros((8, 16, 3), dtype=np.uint8)
    wide[:, 4:12] = 200  # the middle
    Image.fromarray(wide).save(tmp_path / "test" / "cat" / "b.png")
    assert "8x8, 16x8" in refusal(tmp_path)
    image = image_folder(tmp_path, size=4).test.images[1]
    assert image.shape == (3, 4, 4)
    assert int(image[:, :, 1:3].min()) >= 190


def test_the_orientation_in_a_file_is_applied(tmp_path: Path) -> None:
    fill(tmp_path / "test", 1)
    upright = np.zeros((8, 8, 3), dtype=np.uint8)
    upright[:2] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    path = tmp_path / "test" / "cat" / "b.png"
    Image.fromarray(upright[::-1].copy()).save(path, exif=exif)
    np.testing.assert_array_equal(image_folder(tmp_path).test.images[1, 0], upright[..., 0])


def test_a_few_files_that_cannot_be_read_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path / "test", 10)
    (tmp_path / "test" / "cat" / "004.png").write_bytes(b"broken")
    (tmp_path / "test" / "dog" / "notes.txt").write_text("no image, by its name")
    with caplog.at_level(logging.WARNING):
        test = image_folder(tmp_path).test
    assert "cat/004.png" in caplog.text
    assert "notes" not in caplog.text
    assert test.index.tolist() == [each for each in range(30) if each != 4]


def test_parts_are_known_in_any_case_of_letters(tmp_path: Path) -> None:
    for name, count in (("Train", 5), ("TEST", 3)):
        fill(tmp_path / name, count)
    splits = image_folder(tmp_path)
    assert splits.test.class_names == CLASSES
    assert len(splits.test) == 9


def test_a_class_that_is_called_like_a_part_is_a_class(tmp_path: Path) -> None:
    fill(tmp_path, 10, classes=("bus", "train"))
    assert image_folder(tmp_path).test.class_names == ("bus", "train")


def test_folders_beside_the_parts_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path / "train", 10)
    fill(tmp_path, 2, classes=("bus", "car"))
    assert image_folder(tmp_path).test.class_names == CLASSES
    assert "left out: bus, car" in caplog.text


def test_parts_that_would_be_read_otherwise_are_refused(tmp_path: Path) -> None:
    twice, other = tmp_path / "twice", tmp_path / "other"
    for folder in (twice / "val", twice / "valid", other / "training_set", other / "test_set"):
        fill(folder, 2)
    assert "both for validation" in refusal(twice)
    assert "look like parts" in refusal(other)


def test_hidden_folders_are_no_images(tmp_path: Path) -> None:
    fill(tmp_path / "test", 2)
    save(tmp_path / "test" / "cat" / ".ipynb_checkpoints" / "000.png", 0)
    save(tmp_path / "test" / "cat" / "in" / "000.png", 0)
    assert len(image_folder(tmp_path).test) == 7


def test_classes_of_numbers_are_in_the_order_of_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test = image_folder(fill(tmp_path, 5, classes=("1", "2", "10"))).test
    assert test.class_names == ("1", "10", "2")
    assert "1, 10, 2" in caplog.text


def test_a_class_without_one_readable_image_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "test", 30, classes=("cat", "dog"))
    save(tmp_path / "test" / "eel" / "a.png", 0).write_bytes(b"broken")
    assert "eel: none of its images" in refusal(tmp_path)


def test_many_such_files_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "test", 10)
    for number in range(4):
        (tmp_path / "test" / "cat" / f"{number:03}.png").write_bytes(b"")
    assert "4 of 30 images cannot be read: cat/000.png" in refusal(tmp_path)


def test_folders_that_are_refused(tmp_path: Path) -> None:
    assert "is no folder" in refusal(tmp_path / "none")
    assert "at least two classes" in refusal(tmp_path)
    one = fill(tmp_path / "one", 2, classes=("cat",))
    assert "1 folders" in refusal(one)
    empty = fill(tmp_path / "empty", 2)
    (empty / "zebra").mkdir()
    assert "zebra holds no images" in refusal(empty)
    alike = fill(tmp_path / "alike", 2, classes=("cat", "Cat", "dog"))
    assert "Cat, cat differ in case" in refusal(alike)
    parts = tmp_path / "parts"
    fill(parts / "train", 2)
    fill(parts / "test", 2, classes=(*CLASSES, "fox"))
    assert "(fox)" in refusal(parts)
    few = fill(tmp_path / "few", 1, classes=("cat", "dog"))
    assert image_folder(fill(few, 5, classes=("cat", "dog"))).test.classes == 2
