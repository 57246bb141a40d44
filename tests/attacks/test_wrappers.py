"""Attacks through scaled logits and through another model."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from attacks.stubs import Bright, Brighten, grey
from builders import seeded
from lrat.attacks import APGD, PGD, Attack, LogitScaled, Transfer, Variant
from lrat.config.user_code import OwnAttack
from lrat.errors import SettingError
from lrat.losses import targeted_dlr
from lrat.randomness import NoiseLike
from lrat.threat import Linf
from trained import THREAT, held_out, trained

NEAR = Linf(epsilon=0.2)
PLAIN = PGD(threat=NEAR, steps=10, step_size=0.05, start="none")
SATURATED = 1000.0
"""Times .1 of brightness to the boundary, times two: 200, and exp(-200) is 0 in float32."""


@torch.no_grad()
def fooled(model: nn.Module, images: Tensor) -> list[bool]:
    return (model(images).argmax(1) != 0).tolist()


def test_a_small_scale_finds_what_a_saturated_softmax_hides() -> None:
    model = Bright(scale=SATURATED)
    images, labels = grey(0.4, 0.35, 0.1)
    hidden = PLAIN(model, images, labels).images
    assert torch.equal(hidden, images), "the gradient is exactly 0"
    adversarial = LogitScaled(attack=PLAIN, scale=0.1)(model, images, labels).images
    assert fooled(model, adversarial) == [True, True, False]
    assert NEAR.violation(adversarial, images).max() <= NEAR.tolerance
    same = LogitScaled(attack=PLAIN, scale=1)(model, images, labels).images
    assert torch.equal(same, hidden)


def test_scaling_changes_no_attack_that_looks_at_ratios_of_logits() -> None:
    """The targeted DLR loss does not know the scale, neither of the images' nor of clean logits."""
    model = trained()
    images, labels = held_out(model, 60)
    attack = APGD(threat=THREAT, steps=10, loss=targeted_dlr, targets=3)
    with torch.no_grad():
        clean = model(images)
    # A power of two, so that the scaled logits are the logits but for their exponent.
    scaled = LogitScaled(attack=attack, scale=1 / 4)
    for given in (None, clean):
        plain, rescaled = (
            model(each(model, images, labels, clean_logits=given).images).argmax(1) != labels
            for each in (attack, scaled)
        )
        assert 0 < plain.sum() < len(labels)
        assert torch.equal(rescaled, plain)


def test_wrappers_say_of_themselves_what_their_attack_says() -> None:
    targeted = APGD(threat=THREAT, steps=2, loss=targeted_dlr, targets=2)
    wrapped: list[Callable[[Attack], Attack]] = [
        lambda attack: LogitScaled(attack=attack, scale=2),
        lambda attack: OwnAttack(attack, "mine.py:attack", "0"),
    ]
    for wrap in wrapped:
        assert wrap(targeted).needs_clean
        assert wrap(PLAIN).provides == {"steps_survived"}
    source = Transfer(attack=targeted, source=trained(), name="source")
    assert (source.needs_clean, source.provides) == (False, frozenset())


def test_a_wrapper_hands_on_noise_and_clean_logits_as_they_were_passed() -> None:
    handed: list[object] = []

    class Listening:
        provides: frozenset[str] = frozenset()
        needs_clean = True

        def __call__(
            self,
            model: nn.Module,
            images: Tensor,
            labels: Tensor,
            *,
            noise: NoiseLike = None,
            clean_logits: Tensor | None = None,
        ) -> Variant:
            handed.extend((noise, clean_logits))
            return Variant(images=images)

    images, labels = grey(0.4)
    logits = torch.tensor([[1.0, 0.0]])
    attack = OwnAttack(Listening(), "mine.py:attack", "0")
    attack(Bright(scale=1), images, labels, noise=7, clean_logits=logits)
    assert handed[0] == 7
    assert handed[1] is logits


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_scales_that_are_no_scales_are_refused(scale: float) -> None:
    with pytest.raises(SettingError, match=r"scale=.*: must be a finite number > 0"):
        LogitScaled(attack=PLAIN, scale=scale)


class Untouchable(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError("the model under evaluation must not be called")


def test_a_carried_over_attack_is_made_on_its_source_alone() -> None:
    source = trained()
    images, labels = held_out(source, 20)
    attack = PGD(threat=THREAT, steps=3, step_size=0.1)
    transfer = Transfer(attack=attack, source=source, name="first")
    given = torch.rand(20, 10, generator=torch.Generator().manual_seed(0))
    variant = transfer(Untouchable(), images, labels, noise=3, clean_logits=given)
    assert torch.equal(variant.images, attack(source, images, labels, noise=3).images)
    assert variant.trace is not None
    assert (variant.trace.margin, variant.trace.step) == (None, None)
    assert variant.trace.forwards is not None
    assert variant.trace.backwards is not None
    assert variant.trace.forwards.tolist() == variant.trace.backwards.tolist() == [3] * 20


def test_passes_of_an_attack_that_tells_nothing_are_counted_on_the_source() -> None:
    source = Bright()
    transfer = Transfer(attack=Brighten(by=0.1), source=source, name="bright")
    trace = transfer(Untouchable(), *grey(0.1, 0.2, 0.3)).trace
    assert trace is not None
    assert trace.forwards is not None
    assert trace.forwards.tolist() == [1, 1, 1]


def test_the_source_is_named_and_not_printed() -> None:
    source = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    shown = repr(Transfer(attack=PLAIN, source=source, name="abc123"))
    assert "name='abc123'" in shown
    assert repr(PLAIN) in shown
    assert "Linear" not in shown


def grads(model: nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in model.parameters()]


def test_the_source_is_attacked_in_eval_mode_and_stays_as_it_was() -> None:
    source = nn.Sequential(copy.deepcopy(trained()), nn.Dropout(0.9)).train()
    images, labels = held_out(trained(), 10)
    modes, before = [module.training for module in source.modules()], grads(source)
    variant = Transfer(attack=PLAIN, source=source, name="train")(Untouchable(), images, labels)
    assert [module.training for module in source.modules()] == modes
    assert torch.equal(variant.images, PLAIN(trained(), images, labels).images)
    assert all(value is kept for value, kept in zip(grads(source), before, strict=True))
