"""The view follows whatever its model changes, by name, and stays cheap where only weights do."""

import types
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrat
from builders import random_images, seeded
from lrat.acceleration import Choices, FastView, accelerate
from lrat.outputs import forward_logits
from lrat.threat import Linf

IMAGES = random_images(12, 3, 8)
LABELS = torch.arange(12) % 4


@dataclass(slots=True)
class Setting:
    factor: float = 1.0


class Scheduled(nn.Module):
    """A network with everything in it that a schedule may change."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.body[1].running_mean.copy_(torch.tensor([0.5, -0.5, 1.0, 0.0]))
        self.head = nn.Linear(4 * 36, 4)
        self.register_buffer("center", torch.zeros(3, 1, 1))
        self.scale = torch.ones(3, 1, 1)
        self.temperature = 1.0
        self.flip = False
        self.shifts: list[Any] = [0.0, torch.zeros(4)]
        self.settings = {"gain": {"value": 1.0}}
        self.space = types.SimpleNamespace(factor=1.0)
        self.slots = Setting()
        self.unregistered = [nn.Linear(4, 4)]
        self.clamp: Callable[[Tensor], Tensor] = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        images = self.scale * (images - self.center) * self.slots.factor
        images = images.flip(-1) if self.flip else images
        logits = self.head(self.body(images)) / self.temperature * self.space.factor
        logits = self.settings["gain"]["value"] * logits + self.shifts[0] + self.shifts[1]
        return self.clamp(self.unregistered[0](logits))


def _new_head(model: Any) -> None:
    model.head = seeded(1, lambda: nn.Sequential(nn.Linear(4 * 36, 8), nn.Linear(8, 4)))


def _new_parameter(model: Any) -> None:
    model.head.weight = nn.Parameter(-model.head.weight.detach())


def _in_place(model: Any) -> None:
    model.unregistered[0].weight.data.mul_(2)


def _without_norm(model: Any) -> None:
    del model.body[1]


def _hooked(model: Any) -> None:
    model.head.register_forward_hook(lambda module, inputs, output: 2 * output)


CHANGES: dict[str, Callable[[Any], object]] = {
    "reassigned buffer": lambda model: setattr(model, "center", model.center + 0.3),
    "tensor attribute": lambda model: setattr(model, "scale", 2 * model.scale),
    "tensor attribute with a graph": lambda model: setattr(
        model, "scale", model.scale * model.head.weight.mean()
    ),
    "number": lambda model: setattr(model, "temperature", 0.5),
    "flag": lambda model: setattr(model, "flip", True),
    "in a list": lambda model: model.shifts.__setitem__(0, 3.0),
    "tensor in a list": lambda model: model.shifts.__setitem__(1, torch.arange(4.0)),
    "in nested dictionaries": lambda model: model.settings["gain"].update(value=3.0),
    "in an object": lambda model: setattr(model.space, "factor", 2.0),
    "in slots": lambda model: setattr(model.slots, "factor", 2.0),
    "parameter": _new_parameter,
    "submodule": _new_head,
    "deleted submodule": _without_norm,
    "module in a list": _in_place,
    "function": lambda model: setattr(model, "clamp", nn.Tanh()),
    "hook": _hooked,
    "setting of a layer": lambda model: setattr(model.body[1], "eps", 0.5),
    "forward of an instance": lambda model: setattr(
        model.head, "forward", types.MethodType(lambda self, hidden: -hidden[:, :4], model.head)
    ),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("choices", [Choices(), Choices(channels_last=True)], ids=str)
def test_a_view_follows_its_model(name: str, choices: Choices) -> None:
    model = seeded(0, Scheduled).eval()
    view = accelerate(model, IMAGES, choices=choices)
    before = view(IMAGES)
    assert not before.requires_grad
    CHANGES[name](model)
    expected = forward_logits(model, IMAGES)
    assert not torch.allclose(before, expected, atol=1e-3)
    torch.testing.assert_close(view.refresh()(IMAGES), expected, rtol=1e-4, atol=1e-4)
    assert view.check() == ()
    assert not view.is_plain


def test_only_weights_changed_costs_one_copy() -> None:
    class Operations(torch.utils._python_dispatch.TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: Counter[str] = Counter()

        def __torch_dispatch__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
            self.seen[str(function)] += 1
            return function(*arguments, **(named or {}))

    model = seeded(0, Scheduled).train()
    view = FastView(model, Choices(), IMAGES)
    fast = view.fast
    with torch.no_grad():
        model.head.weight.mul_(2)
        model.body[1].running_mean.add_(0.1)
    with Operations() as operations:
        view.refresh()
    assert view.fast is fast
    assert operations.seen["aten._foreach_copy_.default"] == 1
    assert sum(operations.seen.values()) <= 8
    torch.testing.assert_close(view(IMAGES), forward_logits(model.eval(), IMAGES))


class Counting(nn.Module):
    """Keeps a record of its calls, in all the ways in which models do; ``way`` is what it does."""

    def __init__(self, way: int = 0) -> None:
        super().__init__()
        self.way, self.offset = way, 0.0
        self.calls, self.losses, self.seen = 0, [0.0], {"eval": Counter()}
        self.meter, self.features = Setting(), torch.zeros(1)
        self.layer, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.norm.running_mean.copy_(torch.tensor([0.5, -0.5, 1.0, 0.0]))
        self.head = nn.Linear(256, 4)

    def forward(self, images: Tensor) -> Tensor:
        first = self.layer(images)
        hidden = first if self.way == 1 else self.norm(first)
        hidden = hidden + first if self.way == 2 else hidden
        hidden = hidden * self.norm.bias[:, None, None] if self.way == 3 else hidden
        self.features = hidden.relu().flatten(1)
        self.calls, self.losses = self.calls + 1, [*self.losses, 0.0]
        self.seen["eval"]["calls"] += 1
        self.meter.factor += 1
        logits = self.head(self.features) + self.offset
        return logits.softmax(1) if self.way == 4 else logits


@pytest.mark.parametrize("choices", [Choices(), Choices(precision="bfloat16")], ids=str)
def test_a_changed_attribute_is_taken_over_without_a_copy_of_the_model(choices: Choices) -> None:
    model = seeded(0, Counting).eval()
    view = FastView(model, choices, IMAGES)
    assert view.folded == 1
    fast: Any = view.fast
    for count in (12, 5):
        model(IMAGES[:count])
        view(IMAGES[:7])
        model.offset += 1
        expected = model(IMAGES)
        view.refresh()
        assert view.fast is fast
        assert (fast.calls, fast.losses, fast.seen) == (model.calls, model.losses, model.seen)
        assert fast.meter.factor == model.meter.factor
        assert fast.seen is not model.seen
        torch.testing.assert_close(view(IMAGES), expected, rtol=0.02, atol=0.02)
        assert not fast.features.requires_grad


@pytest.mark.parametrize("way", [1, 2, 3, 4])
def test_a_flag_that_changes_what_may_be_folded_is_followed(way: int) -> None:
    """A norm that is left out, whose input or weight is read elsewhere, another head."""
    model = seeded(0, Counting).eval()
    with torch.no_grad():
        model.norm.bias.fill_(0.5)
    view = FastView(model, Choices(), IMAGES)
    model.way = way
    torch.testing.assert_close(view.refresh()(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)
    assert view.folded == (way == 4)


def test_a_flag_that_wakes_a_hook_is_followed() -> None:
    model = seeded(0, Counting).eval()
    model.head.register_forward_hook(lambda module, inputs, output: -output if model.way else None)
    view = FastView(model, Choices(), IMAGES)
    model.way = 5
    torch.testing.assert_close(view.refresh()(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)


def test_an_attribute_that_shares_an_object_with_another_stays_shared() -> None:
    model = seeded(0, Counting).eval()
    model.other = model.seen
    view = FastView(model, Choices(), IMAGES)
    model.seen["eval"]["calls"] += 1
    fast: Any = view.refresh().fast
    assert fast.other is fast.seen
    assert fast.seen == model.seen


def test_a_refresh_waits_for_no_device() -> None:
    """On meta, whatever reads a value raises."""
    model = seeded(0, Scheduled).to("meta").eval()
    model.scale, model.shifts[1] = model.scale.to("meta"), model.shifts[1].to("meta")
    model.unregistered[0].to("meta")
    view = FastView(model, Choices(channels_last=True), IMAGES.to("meta"))
    assert view.folded == 1
    view.refresh()
    model.temperature = 3.0
    view.refresh()


class Centred(nn.Module):
    """A centre that training moves: as a buffer that is reassigned, or as a plain attribute."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(384, 4)
        self.calls = 0
        if how == "buffer":
            self.register_buffer("center", torch.zeros(1, 3, 1, 1))
        else:
            self.center = torch.zeros(1, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            mean = images.detach().mean((0, 2, 3), keepdim=True)
            self.center = 0.5 * self.center + 0.5 * mean
        hidden = self.layer(8 * (images - self.center)).relu()
        return self.head(hidden.flatten(1))


@pytest.mark.parametrize("how", ["buffer", "attribute"])
def test_training_attacks_the_model_that_is_trained(how: str) -> None:
    weights = []
    for acceleration in ("auto", "off"):
        model = seeded(0, lambda: Centred(how))
        lrat.fit(
            model,
            (IMAGES, LABELS),
            threat=Linf(epsilon=0.05),
            method="sat",
            epochs=2,
            batch_size=6,
            lr=0.01,
            validation=0,
            acceleration=acceleration,
        )
        weights.append(model.head.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


class Storing(nn.Module):
    """Keeps the features of its last images, as many models do for a second loss."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
        self.features: Any = None

    def forward(self, images: Tensor) -> Tensor:
        self.features = [self.inner(images)]
        return self.features[0]


def test_a_view_keeps_no_result_of_an_earlier_forward_alive() -> None:
    model = seeded(0, Storing)
    model(IMAGES)
    view = accelerate(model, IMAGES)
    view.refresh()
    earlier = weakref.ref(model.features[0])
    model(IMAGES)
    view.refresh()
    assert earlier() is None
