"""ImageData: what it holds, what it refuses and how it says so."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from builders import random_images
from data.data_builders import ramp
from lrat.data import ImageData, Splits, image_data
from lrat.errors import DataError


def make(images: torch.Tensor, **changes: Any) -> ImageData:
    count = len(images)
    fields = {
        "images": images,
        "labels": torch.zeros(count, dtype=torch.int64),
        "index": torch.arange(count),
        "class_names": ("a", "b"),
    }
    return ImageData(**(fields | changes))


def refusal(images: torch.Tensor, **changes: Any) -> str:
    with pytest.raises(DataError) as caught:
        make(images, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_batch_is_float_in_the_unit_box() -> None:
    data = make(torch.tensor([0, 4, 16], dtype=torch.uint8).reshape(3, 1, 1, 1), scale=16)
    batch = data.batch(torch.tensor([2, 1]))
    assert batch.images.dtype == torch.float32
    assert batch.images.flatten().tolist() == [1.0, 0.25]
    assert batch.index.tolist() == [2, 1]


def test_float_images_are_handed_out_as_they_are() -> None:
    data = make(torch.full((2, 1, 2, 2), 0.3))
    assert torch.equal(data.batch(slice(0, 2)).images, data.images)


def test_selection_keeps_each_image_with_its_label_and_index() -> None:
    data = ramp(7)
    rows = torch.tensor([5, 0])
    chosen = data.select(rows)
    assert chosen.index.tolist() == [105, 100]
    assert chosen.labels.tolist() == [2, 0]
    assert torch.equal(chosen.images, data.images[rows])
    assert (len(chosen), chosen.shape, chosen.classes) == (2, (1, 4, 4), 3)


def test_the_digest_is_that_of_the_contents() -> None:
    data = ramp(6)
    assert data.digest() == replace(ramp(6), name="another name").digest()
    pixels = data.images.clone()
    pixels[3, 0, 1, 1] += 1
    changed = [
        replace(data, images=pixels),
        replace(data, labels=data.labels.flip(0)),
        replace(data, index=data.index + 1),
        replace(data, scale=254),
        replace(data, class_names=("x", "y", "z")),
        data.select(torch.arange(5)),
    ]
    assert len({data.digest(), *(other.digest() for other in changed)}) == 7


def test_pixels_outside_the_box_are_refused_with_the_range_found() -> None:
    images = torch.full((2, 1, 2, 2), 0.5)
    images[1, 0, 0, 0] = 255.0
    message = refusal(images)
    assert "[0.5, 255]" in message
    assert "uint8" in message
    images[1, 0, 0, 0] = -1.5
    assert "[-1.5, 0.5]" in refusal(images)
    images[1, 0, 0, 0] = float("nan")
    assert "NaN" in refusal(images)


def test_uint8_pixels_above_the_scale_are_refused() -> None:
    message = refusal(torch.full((1, 1, 2, 2), 17, dtype=torch.uint8), scale=16)
    assert "17" in message
    assert "16" in message


def test_labels_outside_the_classes_are_refused_with_the_values() -> None:
    images = torch.zeros(4, 1, 2, 2)
    message = refusal(images, labels=torch.tensor([0, -1, 2, 2]))
    assert "-1, 2 occur" in message
    assert "0..1" in message


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((0, 1, 4, 4), "empty"),
        ((5, 8, 8), "images[:, None]"),
        ((5, 8, 8, 3), "permute(0, 3, 1, 2)"),
        ((5, 64), "[N C H W]"),
    ],
)
def test_shapes_that_are_not_channels_first_are_refused(shape: tuple[int, ...], words: str) -> None:
    assert words in refusal(torch.zeros(shape))


def test_counts_types_and_class_names_must_fit() -> None:
    images = torch.zeros(3, 1, 2, 2)
    assert "3 images but 2 labels" in refusal(images, labels=torch.zeros(2, dtype=torch.int64))
    assert "3 images but 4 index" in refusal(images, index=torch.arange(4))
    assert "int64" in refusal(images, labels=torch.zeros(3))
    assert "uint8" in refusal(images.long())
    assert "2 classes" in refusal(images, class_names=("only",))
    assert "scale" in refusal(images.byte(), scale=0)


def test_splits_of_different_kinds_are_refused() -> None:
    with pytest.raises(DataError, match="one shape"):
        Splits(train=ramp(6, side=5), validation=None, test=ramp(6))
    with pytest.raises(DataError, match="classes"):
        Splits(train=ramp(6), validation=ramp(6, classes=2), test=ramp(6))


def test_training_asks_for_training_images() -> None:
    assert len(Splits(train=ramp(5), validation=None, test=ramp(2)).training()) == 5
    with pytest.raises(DataError, match="train_images"):
        Splits(train=None, validation=None, test=ramp(2)).training()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 6, 7), (1, 6, 7)),
        ((5, 6, 7, 3), (3, 6, 7)),
        ((5, 3, 6, 7), (3, 6, 7)),
        ((5, 2, 6, 7), (2, 6, 7)),
    ],
)
def test_layouts_with_one_reading_are_taken(
    shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    data = image_data(pixels, np.zeros(5, dtype=np.int32))
    assert data.shape == expected
    assert data.index.tolist() == [0, 1, 2, 3, 4]
    if shape[-1] == 3:
        assert torch.equal(data.images[:, 1], torch.from_numpy(pixels[..., 1]))


def test_a_view_of_negated_numbers_is_an_image_as_any() -> None:
    """As the imaginary part of a conjugate is: NumPy does not take such a view."""
    plain = random_images(4, 1, 8)
    for negated in (torch._neg_view(-plain), torch.complex(plain, -plain).conj().imag):
        assert negated.is_neg()
        data = image_data(negated, torch.zeros(4, dtype=torch.int64))
        assert data.digest() == image_data(plain, torch.zeros(4, dtype=torch.int64)).digest()


def test_a_layout_with_two_readings_is_refused() -> None:
    with pytest.raises(DataError, match="may be"):
        image_data(np.zeros((5, 3, 8, 3), dtype=np.uint8), np.zeros(5, dtype=np.int64))


def test_types_of_other_libraries_are_converted() -> None:
    pixels = np.full((3, 2, 2), 0.5)
    pixels.flags.writeable = False
    data = image_data(pixels, np.array([[2], [0], [1]], dtype=np.uint8))
    assert data.images.dtype == torch.float32
    assert data.labels.tolist() == [2, 0, 1]
    assert data.class_names == ("0", "1", "2")
    swapped = image_data(pixels.astype(">f4"), np.array([0, 1, 1], dtype=">i2"))
    assert swapped.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.eye(3, dtype=np.int64), "argmax"),
        (np.array([0.0, 1.5, 2.0]), "integers"),
        (np.array(["cat", "dog", "cat"]), "numbers"),
        (np.array([0, 1, 10**9]), "1000000000"),
        (np.array([0, 1, -7]), "-7"),
        (np.array([0, 1]), "3 images but 2 labels"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(labels: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        image_data(np.zeros((3, 2, 2), dtype=np.uint8), labels)


def test_images_that_are_no_pixels_are_refused() -> None:
    with pytest.raises(DataError, match="int64"):
        image_data(np.zeros((2, 4, 4), dtype=np.int64), np.array([0, 1]))
    with pytest.raises(DataError, match=r"\[\]"):
        image_data(np.array(3, dtype=np.uint8), np.array([0, 1]))


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0.0, 1.0, 2.0]),
        torch.tensor([0.0, 1.0, 2.0], dtype=torch.float16),
        np.array([0, 1, 2], dtype=object),
        np.array([0, np.int64(1), 2.0], dtype=object),
        [0, 1, 2],
        [torch.tensor(0), torch.tensor(1), torch.tensor(2)],
        np.array([[0.0], [1.0], [2.0]]),
        np.array([0, 1, 2], dtype=np.uint64),
    ],
    ids=repr,
)
def test_whole_numbers_of_any_kind_are_labels(labels: Any) -> None:
    data = image_data(np.zeros((3, 2, 2), dtype=np.uint8), labels)
    assert data.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0.0, np.nan, 1.0]),
        np.array([0.0, np.inf, 1.0]),
        np.array([0, None, 2], dtype=object),
        np.array(["0", "1", "2"], dtype=object),
        [[0], [1, 2], [0]],
        np.array([True, False, True]),
        None,
        {0: 1},
    ],
    ids=repr,
)
def test_labels_of_other_kinds_are_refused_in_a_line(labels: Any) -> None:
    with pytest.raises(DataError, match=r"^data: labels [^\n]+$"):
        image_data(np.zeros((3, 2, 2), dtype=np.uint8), labels)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("beyond", [-3e-8, -1e-17, 1 + 2e-7, 1 + 1e-12])
def test_rounding_beyond_0_and_1_is_clipped_and_said(
    kind: Any, beyond: float, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.full((2, 4, 4), 0.5, dtype=kind)
    pixels[0, 0, 0] = beyond
    before = pixels.copy()
    data = image_data(pixels, np.array([0, 1]))
    assert data.images[0, 0, 0, 0] == round(beyond)
    assert np.array_equal(pixels, before)
    assert ("clipped" in caplog.text) == (float(np.float32(beyond)) != round(beyond))


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0, 255, r"\[0, 255\].*uint8"),
        (-1, 1, r"\(images \+ 1\) / 2"),
        (-2.1, 2.6, r"images \* std \+ mean"),
        (-0.01, 1, r"\[-0.01, 1\]"),
        (0, 1.00001, r"\[0, 1.00001\]"),
        (0, 1.000002, r"\[0, 1\.00000"),
    ],
)
def test_the_cure_fits_the_range_and_its_ends_are_told_apart(
    low: float, high: float, words: str
) -> None:
    pixels = np.linspace(low, high, 32, dtype=np.float32).reshape(2, 4, 4)
    with pytest.raises(DataError, match=words):
        image_data(pixels, np.array([0, 1]))
