"""ResNet18: the counts that the field knows it by, and its refusals."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from builders import seeded
from lrat.errors import ModelError, SettingError
from lrat.models import ResNet18


def test_parameters_are_those_of_the_cifar_form() -> None:
    with torch.device("meta"):
        model = ResNet18()
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962


def test_a_forward_costs_1_11_gflop() -> None:
    with torch.device("meta"):
        model = ResNet18()
        images = torch.zeros(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(images)
    assert counter.get_total_flops() == pytest.approx(1.11e9, rel=0.005)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 28, 28), (2, 1, 8, 12)])
def test_it_takes_any_size(shape: tuple[int, ...]) -> None:
    model = seeded(0, lambda: ResNet18(channels=shape[1], classes=5, width=2)).eval()
    assert model(torch.zeros(shape)).shape == (2, 5)


def test_wrong_settings_and_images_are_refused() -> None:
    with pytest.raises(SettingError, match="width=0"):
        ResNet18(width=0)
    with pytest.raises(SettingError, match="classes=1"):
        ResNet18(classes=1)
    model = seeded(0, lambda: ResNet18(width=2))
    with pytest.raises(ModelError, match="channels=1"):
        model(torch.zeros(2, 1, 28, 28))
