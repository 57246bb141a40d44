import gc
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from builders import seeded
from lrat.acceleration import Choices, FastView
from lrat.attacks import PGD, SAA, Attack
from lrat.experiments.clocks import (
    PassClock,
    PassFlop,
    PhaseClock,
    image_pass_flop,
    matrix_peak,
    saved_activations,
    weight_pass_flop,
)
from lrat.methods import Simulated, sat
from lrat.models import ResNet18
from lrat.threat import Linf
from lrat.training import Optimisation
from lrat.training.step import Stepper
from steps import batch_of
from trained import THREAT, held_out, trained

CPU = torch.device("cpu")


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock finds it a second later."""
    ticks = count()
    monkeypatch.setattr("lrat.experiments.clocks.time.perf_counter", lambda: float(next(ticks)))


def network() -> nn.Sequential:
    return seeded(
        0,
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)
        ),
    )


def images(number: int = 5) -> Tensor:
    return torch.rand((number, 1, 8, 8), generator=torch.Generator().manual_seed(0))


class Logged(PhaseClock):
    """A clock that remembers which phases ran, one after the other."""

    def __init__(self) -> None:
        super().__init__(CPU, "rest")
        self.history = ["rest"]

    def switch(self, phase: str) -> str:
        self.history.append(phase)
        return super().switch(phase)


@pytest.mark.usefixtures("ticking")
def test_phases_add_up_to_the_whole() -> None:
    clock = PhaseClock(CPU, "rest")
    with clock.during("attack"):
        clock.switch("update")
        clock.switch("attack")
    assert clock.switch("done") == "rest"
    assert clock.seconds == {"rest": 2, "attack": 2, "update": 1}
    assert clock.total == 5
    clock.reset()
    assert clock.total == 0
    assert clock.phase == "done"


def test_the_former_phase_comes_back_after_an_error() -> None:
    clock = PhaseClock(CPU, "rest")
    with pytest.raises(RuntimeError), clock.during("attack"):
        raise RuntimeError
    assert clock.phase == "rest"


def test_passes_of_an_attack_are_split_off_and_counted() -> None:
    model, clock = network(), Logged()
    attack = PGD(threat=THREAT, steps=2, step_size=0.05)
    with PassClock(clock, model) as passes, clock.during("attack"):
        attack(model, images(), torch.arange(5))
    step = ["attack forward", "attack", "attack backward", "attack"]
    assert clock.history == ["rest", "attack", *step, *step, "rest"]
    assert passes.rows == {"attack forward": 10, "attack backward": 10}


def test_an_update_has_no_backward_of_its_own_but_its_gradients_count() -> None:
    model, clock = network(), Logged()
    with PassClock(clock, model) as passes, clock.during("update"):
        model(images()).sum().backward()
    assert clock.history == ["rest", "update", "update forward", "update", "rest"]
    assert passes.rows == {"update forward": 5, "update backward": 5}


def test_two_passes_from_one_leaf_and_one_way_back() -> None:
    model, clock = network(), Logged()
    leaf = images().requires_grad_()
    with PassClock(clock, model) as passes, clock.during("attack"):
        torch.autograd.grad((model(leaf) + model(leaf)).sum(), leaf)
    assert clock.phase == "rest"
    assert clock.history[-3:] == ["attack backward", "attack", "rest"]
    assert passes.rows == {"attack forward": 10, "attack backward": 10}


class Tupled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, pictures: Tensor) -> tuple[Tensor, str]:
        return self.inner(pictures), "extra"


def test_logits_in_a_tuple_are_seen() -> None:
    model, clock = Tupled(), PhaseClock(CPU, "attack")
    leaf = images().requires_grad_()
    with PassClock(clock, model) as passes:
        torch.autograd.grad(model(leaf)[0].sum(), leaf)
    assert passes.rows == {"attack forward": 5, "attack backward": 5}
    assert image_pass_flop(model, images()) == image_pass_flop(network(), images())


def test_hooks_are_gone_afterwards() -> None:
    model = network()
    with PassClock(PhaseClock(CPU, "rest"), model, model) as passes:
        assert len(model._forward_hooks) == len(model._forward_pre_hooks) == 1
    model(images())
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not passes.rows


def test_flop_of_a_pass_by_hand() -> None:
    convolution, linear = 2 * 64 * 9 * 4, 2 * 256 * 10
    model = network()
    assert image_pass_flop(model, images()) == PassFlop(
        forward=convolution + linear, backward=convolution + linear
    )
    # Weights of both layers, images of the second alone: nothing goes back to the first input.
    assert weight_pass_flop(model, images()) == PassFlop(
        forward=convolution + linear, backward=convolution + 2 * linear
    )
    assert all(value.grad is None for value in model.parameters())


class Breaking(nn.Module):
    def forward(self, pictures: Tensor) -> Tensor:
        raise RuntimeError


def test_flop_are_unknown_where_a_pass_fails() -> None:
    assert image_pass_flop(Breaking(), images()) is None


def test_saved_activations_by_hand() -> None:
    model = seeded(
        0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    )
    image = images(1)
    # Weights that want a gradient need the images (64 floats); both need what ReLU let through,
    # which is one storage although ReLU and the second layer save it.
    assert saved_activations(model, image) == 4 * (64 + 32)
    assert saved_activations(model.requires_grad_(False), image) == 4 * 32


@pytest.mark.parametrize("channels_last", [False, True])
def test_folding_halves_what_a_pass_of_resnet_saves(channels_last: bool) -> None:
    model = seeded(0, lambda: ResNet18(width=16)).eval()
    image = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    view = FastView(model, Choices(channels_last=channels_last))
    assert 0 < saved_activations(view, image) <= saved_activations(model, image) / 2


@pytest.mark.usefixtures("ticking")
def test_the_peak_is_flop_by_seconds() -> None:
    # A product that takes a second is long enough: no larger one is tried.
    assert matrix_peak(CPU, torch.float32) == 2 * 256**3


def test_a_peak_is_measured() -> None:
    assert matrix_peak(CPU, torch.float32) > 0


class Saved:
    """Stands in a graph for a tensor that autograd keeps."""

    alive = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        Saved.alive += 1

    def __del__(self) -> None:
        Saved.alive -= 1


def tensors_alive() -> int:
    gc.collect()
    return sum(issubclass(type(held), Tensor) for held in gc.get_objects())


class Memory:
    """What is alive whenever a forward begins: tensors saved for backward, tensors at all."""

    def __init__(self, every: int) -> None:
        self.saved: list[int] = []
        self.tensors: list[int] = []
        self._every = every

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if len(self.saved) % self._every == 0:
            self.tensors.append(tensors_alive())
        self.saved.append(Saved.alive)


def watched(model: nn.Module, work: Callable[[], object], every: int = 50) -> Memory:
    memory = Memory(every)
    handle = model.register_forward_pre_hook(memory)
    try:
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            work()
    finally:
        handle.remove()
    return memory


def assert_flat(memory: Memory) -> None:
    assert set(memory.saved) == {0}, "no step leaves a graph behind"
    # What lives across steps exists from the second one on, give or take a name for the same tensor
    # twice; a leak would be one tensor per step at least.
    later = memory.tensors[1:]
    assert len(later) >= 3
    assert max(later) - min(later) < 10


@pytest.mark.parametrize(
    "attack",
    [
        PGD(threat=THREAT, steps=200, step_size=THREAT.epsilon / 4),
        SAA(threat=THREAT, steps=200),
    ],
    ids=["pgd", "saa"],
)
def test_memory_is_flat_over_200_steps_of_an_attack(attack: Attack) -> None:
    model = trained()
    pictures, labels = held_out(model, 4)
    view = FastView(model, Choices())
    memory = watched(view, lambda: attack(view, pictures, labels))
    assert len(memory.saved) >= 200
    assert_flat(memory)


def test_memory_is_flat_over_200_training_steps() -> None:
    model = network()
    view = FastView(model, Choices())
    objective = sat(Simulated(threat=Linf(epsilon=0.1), steps=1))
    optimisation = Optimisation(epochs=1, lr=0.01)
    optimizer = optimisation.optimizer(model)
    batch = batch_of(images(), torch.arange(5))

    def train() -> None:
        with Stepper(model, view, objective, optimizer, optimisation, {}) as stepper:
            for step in range(200):
                stepper([batch], epoch=0, step=step)

    memory = watched(view, train)
    assert len(memory.saved) == 200
    assert_flat(memory)


def test_what_memory_is_measured_with_sees_a_leak() -> None:
    model, leaf = network(), images().requires_grad_()
    kept: list[Tensor] = []
    memory = watched(model, lambda: kept.extend(model(leaf).sum() for _ in range(20)), every=5)
    with pytest.raises(AssertionError):
        assert_flat(memory)
    for values in (memory.saved, memory.tensors):
        assert sorted(set(values)) == values, "each is more than the one before"
