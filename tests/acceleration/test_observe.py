"""What one forward shows of a model, without touching anything that another thread could see."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

import lrat
from builders import random_images, seeded
from lrat.acceleration import Choices, FastView, accelerate
from lrat.acceleration.observe import observed
from lrat.models import ResNet18, SmallCNN
from lrat.outputs import forward_logits
from lrat.threat import Linf
from lrat.training.precision import Mixed

IMAGES = random_images(12, 3, 8)
LABELS = torch.arange(12) % 4


class Body(nn.Module):
    """A convolution and its norm, with what the cases read in between."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 64, 4)
        self.between = between or (lambda model, hidden: model.norm(hidden))
        self.norm.running_mean.copy_(torch.tensor([0.3, -0.2, 0.1, 0.5]))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.between(self, self.layer(images))
        return self.head(hidden.relu().flatten(1))


def _detached(model: Any, hidden: Tensor) -> Tensor:
    beside = hidden.detach()
    return model.norm(hidden) + beside


READ_TWICE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "residual add": lambda model, hidden: model.norm(hidden) + hidden,
    "functional use before": lambda model, hidden: (
        functional.avg_pool2d(hidden, 1) + model.norm(hidden)
    ),
    "ReLU in place": lambda model, hidden: model.norm(hidden.relu_()),
    "view of it": lambda model, hidden: model.norm(hidden) + hidden[:, :, :1],
    "detached": _detached,
    "norm called twice": lambda model, hidden: model.norm(model.norm(hidden)),
    "its weight read": lambda model, hidden: model.norm(hidden) * model.layer.weight.mean(),
}


@pytest.mark.parametrize("name", READ_TWICE)
def test_an_output_that_is_read_elsewhere_too_is_not_folded(name: str) -> None:
    model = seeded(0, lambda: Body(READ_TWICE[name])).eval()
    view = accelerate(model, IMAGES, choices=Choices())
    assert view.folded == 0
    torch.testing.assert_close(view(IMAGES), forward_logits(model, IMAGES))


@pytest.mark.parametrize(
    ("build", "pairs"),
    [
        (lambda: ResNet18(width=4, classes=4), 20),
        (lambda: SmallCNN(channels=3, size=8, classes=4, width=4), 3),
        (Body, 1),
    ],
    ids=["resnet-18", "small-cnn", "one"],
)
def test_every_norm_behind_a_layer_is_found(build: Callable[[], nn.Module], pairs: int) -> None:
    observation = observed(seeded(0, build).train(), IMAGES)
    assert len(observation.pairs) == pairs
    assert observation.flop > 0


@pytest.mark.parametrize(
    ("build", "head"),
    [
        (Body, "head"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, 4)), "2"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Softplus()), None),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()), None),
    ],
    ids=["named", "in a sequence", "something after it", "no linear layer"],
)
def test_the_head_is_the_layer_that_makes_the_logits(
    build: Callable[[], nn.Module], head: str | None
) -> None:
    assert observed(seeded(0, build), IMAGES).head == head


class Curious(Body):
    """Notes what it is called with, and what a call of a module is at that moment."""

    def __init__(self, seen: list[Any]) -> None:
        super().__init__()
        self.note = seen.append

    def forward(self, images: Tensor) -> Tensor:
        self.note((type(images), nn.Module.__call__))
        return super().forward(images)


@pytest.mark.parametrize("use", ["accelerate", "lazily", "mixed precision"])
def test_a_forward_gets_tensors_and_finds_pytorch_as_it_is(use: str) -> None:
    call, seen = nn.Module.__call__, []  # type: ignore[var-annotated]
    model = seeded(0, lambda: Curious(seen))
    if use == "mixed precision":
        Mixed(model)(IMAGES)
    else:
        accelerate(model, IMAGES if use == "accelerate" else None)(IMAGES)
    assert seen
    assert {kind for kind, _ in seen} == {Tensor}
    assert all(function is call for _, function in seen)
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_threads_do_not_meet() -> None:
    """Evaluations, views and plain forwards of one model in four threads at once."""
    model = seeded(0, Body).eval()
    expected, failures = forward_logits(model, IMAGES), []  # type: ignore[var-annotated]
    call = nn.Module.__call__

    def work(number: int) -> None:
        try:
            if number == 0:
                for _ in range(20):
                    assert torch.equal(model(IMAGES), expected)
            elif number == 1:
                lrat.evaluate(model, (IMAGES[:4], LABELS[:4]), threat=Linf(epsilon=0.05))
            else:
                torch.testing.assert_close(accelerate(model)(IMAGES), expected, atol=1e-3, rtol=0)
        except BaseException as error:
            failures.append(error)

    for _ in range(3):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert nn.Module.__call__ is call
    assert torch.equal(model(IMAGES), expected)


class Kept:
    """Hooks that store, as an object, as functions, before and after."""

    def __init__(self) -> None:
        self.outputs: list[Any] = []

    def __call__(self, module: nn.Module, inputs: Any, output: Any = None) -> None:
        self.outputs.append(inputs if output is None else output)


@pytest.mark.parametrize("kind", ["forward", "pre", "with kwargs", "on the model"])
def test_hooks_that_only_store_do_not_run_in_attacks(kind: str) -> None:
    model, kept = seeded(0, Body).eval(), Kept()
    if kind == "pre":
        model.layer.register_forward_pre_hook(kept)
    elif kind == "with kwargs":
        model.layer.register_forward_hook(
            lambda module, inputs, named, output: kept(module, inputs, output), with_kwargs=True
        )
    else:
        (model if kind == "on the model" else model.layer).register_forward_hook(kept)
    view = accelerate(model, IMAGES, choices=Choices())
    assert (view.is_plain, view.folded) == (False, 1)
    before = len(kept.outputs)
    for _ in range(3):
        view.refresh()(IMAGES.clone().requires_grad_())
    assert len(kept.outputs) == before
    assert not any(getattr(each, "grad_fn", None) for each in kept.outputs)


def _doubling(model: Any) -> None:
    model.layer.register_forward_hook(lambda module, inputs, output: 2 * output)


def _in_place(model: Any) -> None:
    model.norm.register_forward_hook(lambda module, inputs, output: _double(output))


def _double(output: Tensor) -> None:
    output.mul_(2)


def _before(model: Any) -> None:
    model.norm.register_forward_pre_hook(lambda module, inputs: (inputs[0] - 0.2,))


def _mask(model: Any) -> None:
    """As in pruning: the weight is computed again before each forward."""
    weight = nn.Parameter(model.layer.weight.detach().clone())
    del model.layer.weight
    model.layer.register_parameter("all_weights", weight)

    def masked(module: Any, inputs: Any) -> None:
        module.weight = module.all_weights * (module.all_weights > 0)

    masked(model.layer, None)
    model.layer.register_forward_pre_hook(masked)


def _spectral(model: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        nn.utils.parametrizations.spectral_norm(model.layer)


def _pruned(model: Any) -> None:
    prune.l1_unstructured(model.layer, "weight", amount=0.3)


@pytest.mark.parametrize(
    "attach",
    [_doubling, _in_place, _before, _mask, _spectral, _pruned],
    ids=lambda each: each.__name__,
)
def test_hooks_that_change_the_answer_count(attach: Callable[[Any], None]) -> None:
    model = seeded(0, Body).eval()
    attach(model)
    view = accelerate(model, IMAGES, choices=Choices())
    assert not view.is_plain
    torch.testing.assert_close(view(IMAGES), forward_logits(model, IMAGES))
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.rand(value.shape, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(view.refresh()(IMAGES), forward_logits(model, IMAGES))


def test_a_view_without_images_takes_the_first_that_come() -> None:
    view = FastView(seeded(0, Body).eval(), Choices())
    view.refresh()
    assert view(IMAGES).shape == (12, 4)
    assert view.folded == 1
