"""SmallCNN: shapes, refusals, no host synchronisation."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from builders import seeded
from lrat.errors import ModelError, SettingError
from lrat.models import SmallCNN


@pytest.mark.parametrize(("channels", "size"), [(1, 4), (1, 8), (1, 28), (3, 32), (3, 17)])
def test_logits_have_one_column_per_class(channels: int, size: int) -> None:
    model = seeded(0, lambda: SmallCNN(channels=channels, size=size, classes=7, width=4))
    logits = model(torch.zeros(3, channels, size, size))
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 0}, "width=0"),
        ({"channels": 0}, "channels=0"),
        ({"classes": 1}, "classes=1"),
        ({"size": 3}, "size=3"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings: dict[str, int], words: str) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        SmallCNN(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "cure"),
    [
        ((2, 3, 8, 8), "channels=3"),
        ((2, 1, 28, 28), "size=28"),
        ((2, 1, 8, 9), "square"),
        ((2, 8, 8, 1), "channels come before"),
    ],
)
def test_images_of_another_shape_are_refused_with_the_cure(
    shape: tuple[int, ...], cure: str
) -> None:
    model = seeded(0, lambda: SmallCNN(width=2))
    with pytest.raises(ModelError, match=cure) as caught:
        model(torch.zeros(shape))
    assert "\n" not in str(caught.value)


def test_a_pass_waits_for_no_values() -> None:
    model = seeded(0, lambda: SmallCNN(width=2)).eval()
    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = model(torch.zeros(2, 1, 8, 8))
    assert logits.shape == (2, 10)
