"""A view may compute something else: what it calls fooled counts once its original says so."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import lrat.attacks.apgd as apgd_module
from attacks.stubs import Bright, WrongView, grey
from lrat.acceleration import PlainView
from lrat.attacks import APGD
from lrat.attacks.base import confirmed
from trained import THREAT, held_out, trained


def claims(*values: bool) -> torch.Tensor:
    return torch.tensor(values)


def test_only_what_the_original_misclassifies_too_is_confirmed() -> None:
    original = Bright()
    view = WrongView(original, Bright(boundary=0.3))
    images, labels = grey(0.2, 0.4, 0.6, 0.7)
    result = confirmed(view, images, labels, claims(False, True, True, False))
    assert result.tolist() == [False, False, True, False]
    assert original.sizes == [2], "one forward of the original for the claimed images"
    assert confirmed(view, images, labels, claims(*[False] * 4)).tolist() == [False] * 4
    assert original.sizes == [2]


@pytest.mark.parametrize("wrap", [lambda model: model, PlainView])
def test_what_is_no_accelerated_view_needs_no_confirmation(wrap: Any) -> None:
    model = Bright()
    images, labels = grey(0.2, 0.4)
    assert confirmed(wrap(model), images, labels, claims(True, False)).tolist() == [True, False]
    assert model.sizes == []


def test_confirmation_is_in_float32_and_in_eval_mode_and_leaves_modes_alone() -> None:
    """In bfloat16 .5 + 1/1024 is .5: not above the boundary."""

    class Rounding(Bright):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert not self.training
            assert not torch.is_autocast_enabled("cpu")
            return super().forward(images)

    original = nn.Sequential(Rounding(), nn.Dropout(0.9)).train()
    view = WrongView(original, Bright())
    images, labels = grey(0.5 + 1 / 1024)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert confirmed(view, images, labels, claims(True)).tolist() == [True]
    assert all(module.training for module in original.modules())


@pytest.mark.parametrize(("every", "off"), [(1, 0.05), (10, 0.3), (None, 0.3)])
def test_auto_pgd_goes_on_where_the_original_does_not_confirm(
    every: int | None, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The view's weights are off by so much that some of its successes are none."""
    original = trained("dense")
    other = copy.deepcopy(original)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1 + off * torch.randn(weight.shape, generator=generator))
    view = WrongView(original, other)
    images, labels = held_out(original, 200)
    attack = APGD(threat=THREAT, steps=20, restarts=2, retire_every=every)

    def fooled() -> torch.Tensor:
        adversarial = attack(view, images, labels).images
        assert THREAT.violation(adversarial, images).max() <= THREAT.tolerance
        with torch.no_grad():
            return original(adversarial).argmax(1) != labels

    confirmed_only = fooled()
    monkeypatch.setattr(apgd_module, "confirmed", lambda model, images, labels, claimed: claimed)
    trusting = fooled()
    assert not (trusting & ~confirmed_only).any()
    assert confirmed_only.sum() > trusting.sum()
