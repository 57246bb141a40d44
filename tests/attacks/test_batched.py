"""Attacks that share batches give what each gives alone, in fewer passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from builders import random_images, seeded
from lrat.attacks import APGD, CW, FGSM, PGD, SAA, Attack, Foreign, Variant
from lrat.attacks.batched import PlannedAttack, attack_together, rows_that_pay
from lrat.errors import SettingError
from lrat.losses import Prepared, cross_entropy, cw, dlr, kl, targeted_dlr
from lrat.randomness import Keyed, Sequential, keys
from lrat.threat import L2, Linf

LINF, EUCLIDEAN = Linf(epsilon=0.2), L2(epsilon=1.0)
PLENTY = 10**6
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
IMAGES = random_images(6, 1, 6)
STEPS = {"threat": LINF, "steps": 4, "step_size": 0.05}


def network() -> nn.Module:
    """Smooth, in train mode."""

    def layers() -> nn.Module:
        parts = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))
        return nn.Sequential(*parts)

    return seeded(3, layers)


def planned(attacks: list[Attack]) -> list[PlannedAttack]:
    noise = Keyed(keys(0, torch.arange(len(LABELS))))
    return [PlannedAttack(attack=each, noise=noise.child(n)) for n, each in enumerate(attacks)]


def together(attacks: list[Attack], net: nn.Module, most_rows: int = PLENTY) -> list[Variant]:
    return attack_together(net, IMAGES, LABELS, planned(attacks), most_rows=most_rows)


@contextmanager
def forwards(net: nn.Module) -> Iterator[list[int]]:
    """The number of images of each forward."""
    sizes: list[int] = []
    handle = net.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    yield sizes
    handle.remove()


def groups(threat: Linf | L2) -> dict[str, list[Attack]]:
    steps: dict[str, Any] = STEPS | {"threat": threat, "step_size": threat.epsilon / 4}
    apgd: dict[str, Any] = {"threat": threat, "steps": 9, "stacked": True}
    return {
        "pgd and cw": [PGD(**steps), CW(**steps)],
        "the same attack twice": [PGD(**steps), PGD(**steps)],
        "three losses and starts": [
            PGD(**steps, loss=kl, start="gaussian"),
            CW(**steps, start="none"),
            PGD(**steps, loss=lambda logits, labels: -logits[:, 0]),
        ],
        "fgsm": [FGSM(threat=threat), CW(threat=threat, steps=1, step_size=threat.epsilon)],
        "saa": [SAA(threat=threat, steps=9), SAA(threat=threat, steps=9, targets=2)],
        "auto-pgd": [
            APGD(**apgd, loss=dlr, restarts=2),
            APGD(**apgd, loss=targeted_dlr, targets=9, start="none"),
            APGD(**apgd, loss=cross_entropy),
        ],
    }


@pytest.mark.parametrize("threat", [LINF, EUCLIDEAN], ids=["linf", "l2"])
@pytest.mark.parametrize("name", groups(LINF))
def test_what_each_attack_gives_alone(name: str, threat: Linf | L2) -> None:
    """Up to the rounding of another batch size; counts and classes are the same."""
    attacks, net = groups(threat)[name], network()
    with forwards(net) as sizes:
        variants = together(attacks, net)
    assert max(sizes) > len(LABELS)
    for each, shared in zip(planned(attacks), variants, strict=True):
        alone = each.attack(net, IMAGES, LABELS, noise=each.noise)
        torch.testing.assert_close(shared.images, alone.images, rtol=0, atol=1e-5)
        net.eval()
        assert torch.equal(net(shared.images).argmax(1), net(alone.images).argmax(1))
        net.train()
        assert shared.max_steps == alone.max_steps
        for one, other in [
            (shared.steps_survived, alone.steps_survived),
            *((getattr(shared.trace, name), getattr(alone.trace, name)) for name in TRACED),
        ]:
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other)


TRACED = ("step", "source", "forwards", "backwards")


def test_terms_with_one_loss_and_several_differ_in_nothing_but_it() -> None:
    """The stacked loss is not the first one's."""
    first, second = together([PGD(**STEPS), CW(**STEPS)], network())
    alike, _ = together([PGD(**STEPS), PGD(**STEPS)], network())
    assert torch.equal(first.images, alike.images)
    assert not torch.allclose(first.images, second.images)


def test_one_forward_per_step_for_all() -> None:
    net, batch = network(), len(LABELS)
    with forwards(net) as sizes:
        together([PGD(**STEPS), SAA(threat=LINF, steps=3), CW(**STEPS)], net)
    assert sorted(sizes) == sorted([batch] + [2 * batch] * 4 + [3 * batch] * 4)


class Louder(PGD):
    """A user's subclass, which may step in another way."""


LONGER = STEPS | {"steps": 5}
APART: list[tuple[list[Attack], int]] = [
    ([PGD(**STEPS), CW(**LONGER)], PLENTY),
    ([PGD(**STEPS), CW(**STEPS | {"step_size": 0.01})], PLENTY),
    ([PGD(**STEPS), CW(**STEPS | {"threat": EUCLIDEAN})], PLENTY),
    ([PGD(**STEPS), CW(**STEPS)], 2 * len(LABELS) - 1),
    ([PGD(**STEPS), Louder(**STEPS)], PLENTY),
    ([PGD(**STEPS), Foreign(function=lambda net, images, labels: images)], PLENTY),
    ([APGD(threat=LINF, steps=4), APGD(threat=LINF, steps=4)], PLENTY),
    ([SAA(threat=LINF, steps=6, keep={3: 1}), SAA(threat=LINF, steps=6)], PLENTY),
    ([SAA(threat=LINF, steps=6), SAA(threat=LINF, steps=6, targets=2)], 5 * len(LABELS) - 1),
    (
        [
            APGD(threat=LINF, steps=4, stacked=True),
            APGD(threat=LINF, steps=4, stacked=True, choice="best-loss"),
        ],
        PLENTY,
    ),
]


@pytest.mark.parametrize(("attacks", "most_rows"), APART)
def test_what_may_not_share_runs_by_itself(attacks: list[Attack], most_rows: int) -> None:
    net = network()
    variants = together(attacks, net, most_rows)
    for each, variant in zip(planned(attacks), variants, strict=True):
        alone = each.attack(net, IMAGES, LABELS, noise=each.noise)
        assert torch.equal(variant.images, alone.images)
    with forwards(net) as sizes:
        together(attacks, net, most_rows)
    with forwards(net) as expected:
        for each in planned(attacks):
            each.attack(net, IMAGES, LABELS, noise=each.noise)
    assert sizes == expected


def test_a_third_attack_that_does_not_fit_begins_a_new_batch() -> None:
    net, batch = network(), len(LABELS)
    with forwards(net) as sizes:
        together([PGD(**STEPS), CW(**STEPS), PGD(**STEPS), CW(**STEPS)], net, 3 * batch)
    assert sizes == [3 * batch] * 4 + [batch] * 4


@pytest.mark.parametrize("adapt", [lambda source: source, Sequential])
def test_numbers_that_are_drawn_one_after_the_other_keep_their_order(adapt: Any) -> None:
    attacks: list[Attack] = [PGD(**STEPS), SAA(threat=LINF, steps=3), CW(**STEPS)]
    source = torch.Generator().manual_seed(5)
    one_source = [PlannedAttack(attack=each, noise=adapt(source)) for each in attacks]
    variants = attack_together(network(), IMAGES, LABELS, one_source, most_rows=PLENTY)
    source = torch.Generator().manual_seed(5)
    for attack, variant in zip(attacks, variants, strict=True):
        alone = attack(network(), IMAGES, LABELS, noise=source)
        assert torch.equal(variant.images, alone.images)


class Closed:
    """A loss that keeps nothing per row where ``select`` could find it."""

    needs_clean = False
    targeted = False

    def prepare(self, labels: Tensor, clean: Any = None, rank: Any = None) -> Prepared:
        return Prepared(lambda logits: -logits.gather(1, labels[:, None])[:, 0], ())


def test_losses_of_ones_own_need_no_context() -> None:
    attacks: list[Attack] = [PGD(**STEPS, loss=Closed()), PGD(**STEPS, loss=Closed())]
    net = network()
    for each, shared in zip(planned(attacks), together(attacks, net), strict=True):
        alone = each.attack(net, IMAGES, LABELS, noise=each.noise)
        torch.testing.assert_close(shared.images, alone.images, rtol=0, atol=1e-5)


def test_modes_come_back_when_a_shared_step_raises() -> None:
    def broken(logits: Tensor, labels: Tensor) -> Tensor:
        raise RuntimeError("broken on purpose")

    net = network()
    net[1].eval()
    with pytest.raises(SettingError, match="on purpose"):
        together([PGD(**STEPS), PGD(**STEPS, loss=broken)], net)
    assert [module.training for module in net] == [True, False, True, True, True]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 8, 8), 512), ((1, 28, 28), 334), ((3, 32, 32), 85), ((3, 512, 512), 0), ((1, 0, 0), 512)],
)
def test_larger_images_share_smaller_batches(shape: tuple[int, ...], expected: int) -> None:
    assert rows_that_pay(torch.empty(4, *shape)) == expected


def test_nothing_waits_for_the_device() -> None:
    with FakeTensorMode():
        net = network()
        images, labels = torch.empty(3, 1, 6, 6), torch.zeros(3, dtype=torch.long)
        planned = [
            PlannedAttack(attack=each, noise=number)
            for number, each in enumerate([PGD(**STEPS), PGD(**STEPS, loss=kl), CW(**STEPS)])
        ]
        variants = attack_together(net, images, labels, planned, most_rows=PLENTY)
        assert [variant.images.shape for variant in variants] == [images.shape] * 3


def test_stacked_losses_can_be_selected_in_any_order() -> None:
    logits = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    parts = [cross_entropy.prepare(LABELS), cw.prepare(LABELS)]
    stacked = Prepared.stack(parts)
    expected = torch.cat([cross_entropy(logits[:6], LABELS), cw(logits[6:], LABELS)])
    assert torch.equal(stacked(logits), expected)
    rows = torch.tensor([11, 0, 7, 3, 5, 6])
    assert torch.equal(stacked.select(rows)(logits[rows]), expected[rows])
    some = expected > expected.median()
    once = stacked.select(some)
    assert torch.equal(once(logits[some]), expected[some])
    twice = once.select(torch.tensor([4, 1]))
    assert torch.equal(twice(logits[some][[4, 1]]), expected[some][[4, 1]])
    only_second = torch.tensor([8, 9])
    assert torch.equal(stacked.select(only_second)(logits[only_second]), expected[only_second])
