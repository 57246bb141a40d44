"""Which images of an evaluation are kept for reports."""

import numpy as np
import torch

from lrat.data import image_data
from lrat.experiments.evaluate import IMAGES, chosen_gallery


def images_of(size: int, count: int = 400, classes: int = 10):
    pixels = np.zeros((count, size, size), np.uint8)
    return image_data(pixels, np.arange(count) % classes)


def test_a_few_dozens_by_a_fixed_choice_with_the_classes_in_proportion() -> None:
    data = images_of(8)
    found, again = (chosen_gallery(None, data, data) for _ in range(2))
    assert found is not None
    assert again is not None
    np.testing.assert_array_equal(found.index, again.index)
    assert len(found.index) == IMAGES
    counts = np.bincount(data.labels[torch.from_numpy(found.index)].numpy(), minlength=10)
    assert set(counts.tolist()) <= {3, 4}
    assert not found.fill
    assert (found.about["of"], found.about["test_images"]) == (400, 400)
    assert found.about["class_names"] == [str(each) for each in range(10)]


def test_whoever_asks_for_a_number_gets_it() -> None:
    data = images_of(8)
    asked = chosen_gallery(20, data, data)
    assert asked is not None
    assert len(asked.index) == 20
    assert asked.fill


def test_none_where_none_are_wanted() -> None:
    data = images_of(8, count=3)
    assert chosen_gallery(0, data, data) is None
    few = chosen_gallery(None, data, data)
    assert few is not None
    assert few.index.tolist() == [0, 1, 2]
