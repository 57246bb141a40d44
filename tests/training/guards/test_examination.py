"""What the examination counts, on models whose answers are known."""

import json

import torch
from torch import Tensor, nn

from lrat.attacks import PGD
from lrat.attacks.base import Variant
from lrat.threat import Linf
from lrat.training.guards.readings import Examination
from lrat.types import Batch
from training.guards.runs import batch, network


class Brightness(nn.Module):
    """Class 1 if the mean of an image exceeds a half: attacked by brightening, not by noise."""

    def forward(self, images: Tensor) -> Tensor:
        excess = images.flatten(1).mean(1, keepdim=True) - 0.5
        return torch.cat([-excess, excess], dim=1)


def grey(*levels: float) -> Batch:
    images = torch.tensor(levels)[:, None, None, None].expand(-1, 1, 8, 8).contiguous()
    return Batch(
        images=images, labels=torch.zeros(len(levels)).long(), index=torch.arange(len(levels))
    )


def test_known_counts() -> None:
    examine, some = Examination(), grey(0.4, 0.49, 0.3, 0.6)
    brighter = Variant(images=(some.images + 0.12).clamp(0, 1))
    examine(Brightness(), some, {"up": brighter, "none": Variant(images=some.images)})
    up, none = examine.read()["up"], examine.read()["none"]
    assert (up.images, up.right, up.fooled, up.changed) == (4, 3, 2, 4)
    # Noise of this size moves the mean by .015: only the image at .49 could fall to it.
    assert up.only_attack + up.only_noise in (1, 2)
    assert (none.right, none.fooled, none.only_attack, none.only_noise, none.changed) == (3,) + (
        0,
    ) * 4
    assert (up.darkest, up.brightest) == (float(torch.tensor(0.3)), float(torch.tensor(0.6)))


def test_a_step_of_size_zero_is_its_own_noise_and_a_real_one_is_not() -> None:
    model, some = network().eval(), batch(0, 600)
    with torch.no_grad():
        some = Batch(images=some.images, labels=model(some.images).argmax(1), index=some.index)
    found = {}
    for name, size in (("idle", 0.0), ("working", 0.05)):
        attack = PGD(threat=Linf(epsilon=0.1), steps=2, step_size=size)
        examine = Examination()
        examine(model, some, {name: attack(model, some.images, some.labels, noise=0)})
        found |= examine.read()
    assert abs(found["idle"].gain()) < 0.05
    assert found["idle"].changed == 600
    assert found["working"].gain(-2.0) > 0.2


def test_nothing_is_left_behind() -> None:
    model, some = network().train(), batch(0, 40)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Examination()(model, some, {"noise": Variant(images=1 - some.images)})
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_counts_go_on_after_a_checkpoint() -> None:
    model, parts = network().eval(), [batch(0, 30), batch(30, 90)]
    variants = [{"dark": Variant(images=part.images * 0.3)} for part in parts]
    whole, first, second = Examination(), Examination(), Examination()
    for part, made in zip(parts, variants, strict=True):
        whole(model, part, made)
    first(model, parts[0], variants[0])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second(model, parts[1], variants[1])
    assert second.read() == whole.read()
    assert whole.read()["dark"].images == 90


def test_noise_does_not_depend_on_the_batch() -> None:
    model, some = network().eval(), batch(0, 60)
    made = Variant(images=some.images * 0.3)
    whole, halves = Examination(), Examination()
    whole(model, some, {"dark": made})
    for first in (0, 30):
        half = Variant(images=made.images[first : first + 30])
        halves(model, batch(first, first + 30), {"dark": half})
    assert whole.read() == halves.read()


def test_natural_training_is_not_examined() -> None:
    examine = Examination()
    examine(network(), batch(0, 8), {})
    assert examine.read() == {}
