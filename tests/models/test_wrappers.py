"""Normalize: (x - mean) / std per channel, saved with the weights."""

import pytest
import torch
from torch import nn

from lrat.errors import ModelError, SettingError
from lrat.models import Normalize


def test_each_channel_is_shifted_and_scaled() -> None:
    layer = Normalize([0.5, 0.25], [0.5, 0.125])
    images = torch.tensor([1.0, 0.5]).reshape(1, 2, 1, 1).expand(1, 2, 2, 2)
    expected = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1).expand(1, 2, 2, 2)
    assert torch.equal(layer(images), expected)


def test_the_numbers_travel_with_the_weights_and_are_not_trained() -> None:
    saved = nn.Sequential(Normalize([0.1], [0.2])).state_dict()
    restored = nn.Sequential(Normalize([0.0], [1.0]))
    restored.load_state_dict(saved)
    assert torch.equal(restored(torch.full((1, 1, 1, 1), 0.5)), torch.full((1, 1, 1, 1), 2.0))
    assert not list(restored.parameters())


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ([], [], "per channel"),
        ([0.1, 0.2], [0.1], "per channel"),
        ([0.1], [0.0], "> 0"),
        ([float("nan")], [1.0], "finite"),
        ([125.3], [63.0], "divide"),
    ],
)
def test_wrong_numbers_are_refused(mean: list[float], std: list[float], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        Normalize(mean, std)


def test_another_channel_count_is_refused_instead_of_broadcast() -> None:
    with pytest.raises(ModelError, match="Normalize"):
        Normalize([0.5] * 3, [0.5] * 3)(torch.zeros(2, 1, 4, 4))
