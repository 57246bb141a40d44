"""PGD: steps survived counted by hand, starts, settings and their refusals."""

import math

import pytest
import torch
from torch import Tensor, nn

from lrat.attacks import CW, FGSM, PGD, SAA
from lrat.attacks.pgd import starting_point
from lrat.errors import SettingError
from lrat.losses import cross_entropy, cw, targeted_dlr
from lrat.randomness import Keyed, keys
from lrat.threat import L2, Linf

WIDE = Linf(epsilon=0.5)


class Threshold(nn.Module):
    """One pixel x: class 1 where x > bound, by the logits [0, 10 (x - bound)]."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, images: Tensor) -> Tensor:
        pixel = images.flatten(1)[:, 0]
        return torch.stack([torch.zeros_like(pixel), 10 * (pixel - self.bound)], dim=1)


class Band(nn.Module):
    """Class 1 only where 0.35 < x < 0.45; the third logit is x, far below the others."""

    def forward(self, images: Tensor) -> Tensor:
        pixel = images.flatten(1)[:, 0]
        inside = 0.05 - (pixel - 0.4).abs()
        return torch.stack([torch.zeros_like(pixel), inside, pixel - 100], dim=1)


def one_pixel(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


@pytest.mark.parametrize("make", [PGD, CW], ids=["pgd", "cw"])
@pytest.mark.parametrize(
    ("bound", "steps", "survived", "fooled"),
    [
        (0.45, 6, 3, True),  # iterates 0.2, 0.3, 0.4 are right, 0.5 and all later ones are wrong
        (0.45, 3, 3, True),  # the last iterate is returned and not counted
        (0.45, 2, 2, False),
        (0.10, 4, 0, True),  # wrong when clean
        (0.90, 8, 8, False),  # 0.7 is as far as the ball goes
    ],
)
def test_steps_survived_by_hand(
    make: type[PGD], bound: float, steps: int, survived: int, fooled: bool
) -> None:
    attack = make(threat=WIDE, steps=steps, step_size=0.1, start="none")
    model = Threshold(bound)
    result = attack(model, one_pixel(0.2), torch.tensor([0]))
    assert result.steps_survived is not None
    assert result.steps_survived.tolist() == [survived]
    assert result.max_steps == steps
    assert (model(result.images).argmax(1) != 0).item() == fooled
    expected = min(0.2 + 0.1 * steps, 0.7)
    assert result.images.item() == pytest.approx(expected, abs=1e-6)


def test_each_image_of_a_batch_survives_its_own_steps() -> None:
    attack = PGD(threat=WIDE, steps=5, step_size=0.1, start="none")
    result = attack(Threshold(0.45), one_pixel(0.2, 0.33, 0.42, 0.6), torch.zeros(4).long())
    assert result.steps_survived is not None
    assert result.steps_survived.tolist() == [3, 2, 1, 0]


def test_a_point_that_flips_back_counts_again() -> None:
    """kappa is the number of correct iterates, not the first wrong one."""

    def upwards(logits: Tensor, labels: Tensor) -> Tensor:
        return logits[:, 2]

    attack = PGD(threat=WIDE, steps=5, step_size=0.1, loss=upwards, start="none")
    result = attack(Band(), one_pixel(0.2), torch.tensor([0]))
    assert result.steps_survived is not None
    assert result.steps_survived.tolist() == [4]  # 0.2, 0.3, 0.5, 0.6, but not 0.4


def test_named_settings_are_settings() -> None:
    assert FGSM(threat=WIDE) == PGD(threat=WIDE, steps=1, step_size=0.5, start="none")
    assert CW(threat=WIDE, steps=3, step_size=0.1) == PGD(
        threat=WIDE, steps=3, step_size=0.1, loss=cw
    )
    saa = SAA(threat=WIDE)
    assert (saa.steps, saa.targets, saa.start, saa.loss) == (20, 3, "uniform", targeted_dlr)
    assert PGD(threat=WIDE, steps=3, step_size=0.1).loss is cross_entropy


def test_starts() -> None:
    images = torch.full((50, 1, 4, 4), 0.5)
    noise = Keyed(keys(0, torch.arange(50)))
    for threat in (Linf(epsilon=0.1), L2(epsilon=0.1)):
        assert torch.equal(starting_point("none", threat, images, noise), images)
        uniform = starting_point("uniform", threat, images, noise)
        assert torch.equal(uniform, threat.sample(images, noise))
        surface = threat.distance(starting_point("surface", threat, images, noise), images)
        torch.testing.assert_close(surface, torch.full((50,), 0.1))
        gaussian = (starting_point("gaussian", threat, images, noise) - images) / 0.001
        assert abs(gaussian.std() - 1) < 0.1
        assert abs(gaussian.mean()) < 0.1


def test_a_gaussian_start_stays_in_a_tiny_ball() -> None:
    tiny = Linf(epsilon=1e-4)
    images = torch.full((5, 1, 4, 4), 0.5)
    start = starting_point("gaussian", tiny, images, Keyed(keys(0, torch.arange(5))))
    assert tiny.violation(start, images).max() <= tiny.tolerance


@pytest.mark.parametrize("steps", [0, -1])
def test_an_attack_without_steps_is_refused(steps: int) -> None:
    with pytest.raises(SettingError, match=r"steps=.*a whole number >= 1"):
        PGD(threat=WIDE, steps=steps, step_size=0.1)


@pytest.mark.parametrize("step_size", [-0.1, math.nan, math.inf])
def test_a_step_size_that_is_none_is_refused(step_size: float) -> None:
    with pytest.raises(SettingError, match="step_size"):
        PGD(threat=WIDE, steps=1, step_size=step_size)


def test_a_targeted_loss_is_refused_with_the_cure() -> None:
    with pytest.raises(SettingError, match=r"targeted_dlr.*APGD\(targets="):
        PGD(threat=WIDE, steps=1, step_size=0.1, loss=targeted_dlr)
