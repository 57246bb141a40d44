"""Attacks called directly look at what they get, once, and say in one line what is wrong."""

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from builders import seeded
from experiments.commands import python
from lrat.attacks import APGD, CW, FAB, PGD, SAA, Attack, AutoAttack, Cascade, Square
from lrat.attacks.adapters import as_attack
from lrat.attacks.cascade import Restarts
from lrat.attacks.wrappers import LogitScaled, Transfer
from lrat.data.inputs import trusting
from lrat.errors import DataError, LratError, ModelError
from lrat.threat import L2, Linf

LINF, EUCLIDEAN = Linf(epsilon=8 / 255), L2(epsilon=0.5)
SHORT = PGD(threat=LINF, steps=2, step_size=0.01)
NETWORK = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 5)))
IMAGES, LABELS = torch.linspace(0, 1, 4 * 48).view(4, 3, 4, 4), torch.arange(4)
ATTACKS: list[Attack] = [
    SHORT,
    CW(threat=EUCLIDEAN, steps=2, step_size=0.1),
    APGD(threat=LINF, steps=3),
    SAA(threat=LINF, steps=3),
    FAB(threat=LINF, steps=2),
    Square(threat=LINF, queries=3),
    Square(threat=EUCLIDEAN, queries=3),
    AutoAttack(threat=LINF),
    Cascade(members={"a": SHORT}),
    Restarts(attack=SHORT, count=2),
    LogitScaled(attack=SHORT, scale=10),
    Transfer(attack=SHORT, source=NETWORK, name="other"),
    as_attack(lambda model, images, labels: images),
]
each = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
WRONG: list[tuple[Any, Any, str]] = [
    (IMAGES * 255, LABELS, "divided by 255"),
    (IMAGES - 1, LABELS, r"\(images \+ 1\) / 2"),
    (IMAGES * 4 - 2, LABELS, r"images \* std \+ mean"),
    (torch.where(IMAGES > 0.9, torch.nan, IMAGES), LABELS, "NaN"),
    (torch.where(IMAGES > 0.9, torch.inf, IMAGES), LABELS, "infinite"),
    (IMAGES, LABELS - 1, "found -1"),
    (IMAGES[:0], LABELS[:0], "no images"),
    (IMAGES.to("meta"), LABELS, "meta"),
    (IMAGES.to_sparse(), LABELS, "sparse"),
]


@each
@pytest.mark.parametrize(("images", "labels", "words"), WRONG)
def test_what_is_not_right_is_refused_in_a_line(
    attack: Attack, images: Any, labels: Any, words: str
) -> None:
    with pytest.raises(DataError, match=rf"^[^\n]*{words}[^\n]*$"):
        attack(NETWORK, images, labels)


@pytest.mark.parametrize("attack", ATTACKS[:10], ids=lambda attack: type(attack).__name__)
def test_labels_beyond_the_classes_are_refused(attack: Attack) -> None:
    with pytest.raises(ModelError, match=r"labels go up to 5, which takes 6 classes"):
        attack(NETWORK, IMAGES, LABELS + 2)


class ToMeta(nn.Module):
    """Returns its logits on another device than that of the images."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :5].to("meta")


@pytest.mark.parametrize("attack", ATTACKS[:10], ids=lambda attack: type(attack).__name__)
@pytest.mark.parametrize("model", [NETWORK, ToMeta()], ids=["weights", "answer"])
def test_images_and_model_on_two_devices_are_one_line(attack: Attack, model: nn.Module) -> None:
    model = copy.deepcopy(model).to("meta")
    with pytest.raises(ModelError, match=r"^[^\n]*meta[^\n]*$"):
        attack(model, IMAGES, LABELS)


TYPES = """
import torch
from torch import nn
from lrat.attacks import *
from lrat.attacks.adapters import as_attack
from lrat.errors import LratError

net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
x, y = torch.rand(4, 3, 4, 4), torch.arange(4)
t = "linf:8/255"
attacks = [PGD(threat=t, steps=2, step_size=.01), APGD(threat=t, steps=3), FAB(threat=t, steps=2)]
attacks += [SAA(threat=t, steps=2)]
others = [Square(threat=t, queries=2), AutoAttack(threat=t), as_attack(lambda m, i, l: i)]
wrong = [(x, None), (x, nn.functional.one_hot(y)), (x, y + .5), (x, y.bool()), (x, [0, 1, 2, 3])]
wrong += [((255 * x).byte(), y), (x.long(), y), (None, y), (x.numpy(), y), (x[0, 0, 0], y[:4])]
wrong += [(x, y[:3]), (torch.tensor(.5), y), (x, torch.tensor(1)), (x.to(torch.complex64), y)]
for attack in [*attacks, *others]:
    for images, labels in wrong:
        try:
            attack(net, images, labels)
        except LratError as error:
            assert len(str(error).splitlines()) == 1
        except Exception as error:
            print(type(attack).__name__, repr(error))
        else:
            print(type(attack).__name__, "accepts", images, labels)
for attack in (attacks[0], others[1], others[2]):
    for same in (y.double(), y[:, None], y.byte(), y.half()[:, None]):
        assert torch.equal(attack(net, x, y).images, attack(net, x, same).images)
flat, sequence = nn.Linear(6, 3), nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
for model, inputs in ((flat, torch.rand(4, 6)), (sequence, torch.rand(4, 2, 3))):
    for attack in attacks:
        assert attack(model, inputs, y % 3).images.shape == inputs.shape
    try:
        others[0](model, inputs, y % 3)
    except LratError as error:
        assert "[B C H W]" in str(error)
logits = torch.zeros(4, 5)
wrong = [("net", {}), (lambda images: net(images), {}), (None, {}), (nn.Linear, {})]
wrong += [(net, {"clean_logits": value}) for value in ("x", logits[:3], logits.long(), logits[0])]
for attack in [*attacks, others[0], others[1]]:
    for model, named in wrong:
        try:
            attack(model, x, y, **named)
        except LratError as error:
            assert len(str(error).splitlines()) == 1 and ("model" in str(error))
        else:
            print(type(attack).__name__, "accepts", model, named)
try:
    others[2](lambda images: net(images), x, y)
except LratError as error:
    assert "nn.Module" in str(error)
plain = [attack(net, x, y).images for attack in [*attacks, *others]]
torch.set_default_dtype(torch.float64)
for attack, images in zip([*attacks, *others], plain):
    assert torch.equal(attack(net, x, y).images, images), attack
"""


def test_other_types_are_refused_and_inputs_of_any_shape_are_attacked() -> None:
    """In a process without the tests' type checker, which refuses them too."""
    assert python(TYPES) == ""


@each
@pytest.mark.parametrize("beyond", [-3e-8, 1 + 1e-12, 1 + 6e-7])
def test_rounding_is_clipped_and_said(
    attack: Attack, beyond: float, caplog: pytest.LogCaptureFixture
) -> None:
    images = IMAGES.double()
    images[0, 0, 0, 0] = beyond
    with caplog.at_level(logging.WARNING, logger="lrat"):
        adversarial = attack(NETWORK, images, LABELS).images
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert ("clipped" in caplog.text) == (float(torch.tensor(beyond).float()) not in (0.0, 1.0))


def test_a_caller_who_has_looked_is_trusted_and_the_next_one_is_not() -> None:
    class Seen(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :5]

    with trusting():
        SHORT(Seen(), IMAGES * 3, LABELS)
    for attack in (SHORT, AutoAttack(threat=LINF)):
        with pytest.raises(LratError):
            attack(Seen(), IMAGES * 3, LABELS)
