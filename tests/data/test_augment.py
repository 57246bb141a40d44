"""Crop and flip: what comes out is what went in, moved; each image by its key."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from builders import keyed
from lrat.data import CropAndFlip
from lrat.errors import SettingError


def pictures(count: int, height: int = 6, width: int = 5, channels: int = 2) -> torch.Tensor:
    """All pixels of one image different and above 0."""
    pixels = torch.arange(1, channels * height * width + 1).reshape(channels, height, width)
    return (pixels / 100).expand(count, -1, -1, -1).clone()


def shifts(image: torch.Tensor, padding: int) -> list[torch.Tensor]:
    """Every result that is allowed, by the plain definition."""
    _, height, width = image.shape
    results = []
    for mirrored in (image, image.flip(2)):
        for down in range(-padding, padding + 1):
            for right in range(-padding, padding + 1):
                moved = torch.zeros_like(image)
                for row in range(height):
                    for column in range(width):
                        source = (row - down, column - right)
                        if 0 <= source[0] < height and 0 <= source[1] < width:
                            moved[:, row, column] = mirrored[:, source[0], source[1]]
                results.append(moved)
    return results


def test_every_result_is_a_shift_of_the_image_or_its_mirror_and_all_occur() -> None:
    images = pictures(400, height=3, width=4)
    allowed = torch.stack(shifts(images[0], padding=1))
    results = CropAndFlip(padding=1)(images, keyed(400))
    matches = (results[:, None] == allowed).flatten(2).all(2)
    assert matches.any(1).all()
    assert matches.any(0).all()


@settings(deadline=None, max_examples=25)
@given(padding=st.integers(0, 7), flip=st.booleans(), seed=st.integers(0, 2**40))
def test_pixels_come_from_the_image_or_are_zero(padding: int, flip: bool, seed: int) -> None:
    images = pictures(3)
    results = CropAndFlip(padding=padding, flip=flip)(images, keyed(3, seed))
    assert results.shape == images.shape
    assert torch.isin(results, torch.cat([images.flatten(), torch.zeros(1)])).all()


def test_no_padding_and_no_flip_is_the_identity() -> None:
    images = pictures(9)
    assert torch.equal(CropAndFlip(padding=0, flip=False)(images, keyed(9)), images)


def test_flip_alone_mirrors_about_half() -> None:
    images = pictures(400)
    results = CropAndFlip(padding=0)(images, keyed(400))
    mirrored = (results == images.flip(3)).flatten(1).all(1)
    assert ((results == images).flatten(1).all(1) ^ mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


@settings(deadline=None, max_examples=25)
@given(rows=st.lists(st.integers(0, 11), min_size=1, max_size=12))
def test_an_images_result_does_not_depend_on_its_batch(rows: list[int]) -> None:
    images, draw, augment = pictures(12), keyed(12), CropAndFlip(padding=2)
    chosen = torch.tensor(rows)
    assert torch.equal(augment(images[chosen], draw.select(chosen)), augment(images, draw)[chosen])


def test_bytes_stay_bytes() -> None:
    images = (pictures(5) * 100).to(torch.uint8)
    results = CropAndFlip(padding=2)(images, keyed(5))
    expected = CropAndFlip(padding=2)(images.float(), keyed(5))
    assert results.dtype == torch.uint8
    assert torch.equal(results.float(), expected)


def test_nothing_waits_for_the_values() -> None:
    with FakeTensorMode():
        results = CropAndFlip()(torch.zeros(4, 3, 8, 8), keyed(4))
    assert results.shape == (4, 3, 8, 8)


def test_negative_padding_is_refused() -> None:
    with pytest.raises(SettingError, match="padding=-1"):
        CropAndFlip(padding=-1)
