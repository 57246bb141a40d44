"""Attacks of other libraries: adapted, checked against their region, and kept from leaking."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from lrat.attacks import PGD, Foreign, as_attack
from lrat.errors import RegionViolationError, SettingError
from lrat.threat import Linf

THREAT = Linf(epsilon=0.1)
IMAGES, LABELS = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.long)


def push(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return images + 0.1 * torch.rand_like(images)


def push_too_far(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return images + 0.2


def not_a_number(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return images * float("nan")


def logits(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return images.flatten(1)


def nothing(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    return None


def overwrite(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    labels.zero_().add_(1)
    return images.add_(0.05)


def test_a_callable_is_adapted_and_an_attack_is_left_alone() -> None:
    adapted = as_attack(push, threat=THREAT)
    assert isinstance(adapted, Foreign)
    assert adapted.threat == THREAT
    result = adapted(nn.Flatten(), IMAGES, LABELS)
    assert (result.steps_survived, result.max_steps, result.trace) == (None, None, None)
    assert not adapted.provides
    own = PGD(threat=THREAT, steps=1, step_size=0.1)
    assert as_attack(own) is own
    assert as_attack(adapted) is adapted
    with pytest.raises(SettingError, match=r"\(model, images, labels\)"):
        as_attack("pgd")


def test_its_noise_follows_ours() -> None:
    first, same, other = (as_attack(push)(nn.Flatten(), IMAGES, LABELS, noise=n) for n in (1, 1, 2))
    assert torch.equal(first.images, same.images)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize("function", [push_too_far, not_a_number])
def test_leaving_the_region_is_an_error(function: object) -> None:
    with pytest.raises(
        RegionViolationError, match=r"^\w+ left Linf\(epsilon=0.1.*check its epsilon"
    ):
        as_attack(function, threat=THREAT)(nn.Flatten(), IMAGES, LABELS)


@pytest.mark.parametrize(("function", "found"), [(logits, r"\(3, 4\)"), (nothing, "NoneType")])
def test_a_result_that_is_no_images_is_an_error(function: object, found: str) -> None:
    with pytest.raises(SettingError, match=f"returned {found}.*images of shape"):
        as_attack(function)(nn.Flatten(), IMAGES, LABELS)


def test_the_caller_s_tensors_are_safe_from_writes() -> None:
    images, labels = IMAGES.clone(), LABELS.clone()
    result = as_attack(overwrite)(nn.Flatten(), images, labels)
    assert torch.equal(images, IMAGES)
    assert torch.equal(labels, LABELS)
    assert torch.equal(result.images, IMAGES + 0.05)


def test_what_a_callable_raises_is_one_line_that_names_it() -> None:
    def broken(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return images / (1 // 0)

    with pytest.raises(SettingError, match=r"attack broken failed .*ZeroDivisionError") as error:
        as_attack(broken)(nn.Flatten(), IMAGES, LABELS)
    assert "\n" not in str(error.value)
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_the_gradients_of_the_caller_are_the_same_objects() -> None:
    def backward(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        model(images).sum().backward()
        return images

    model = nn.Sequential(nn.Flatten(), nn.utils.skip_init(nn.Linear, 4, 2))
    kept = torch.ones(2, 4)
    model[1].weight.grad = kept
    as_attack(backward)(model, IMAGES, LABELS)
    assert model[1].weight.grad is kept
    assert torch.equal(kept, torch.ones(2, 4))
    assert model[1].bias.grad is None


def test_python_s_and_numpy_s_random_states_follow_our_noise_and_come_back() -> None:
    """In a process of its own: run-time type checks draw from Python's random numbers."""
    code = """
import random, numpy, torch
from lrat.attacks import as_attack
from lrat.errors import SettingError
def draws(model, images, labels):
    return images + (random.random() + numpy.random.rand() + torch.rand(())) / 3
def fails(model, images, labels):
    draws(model, images, labels)
    raise OSError
def state():
    return str(random.getstate()), str(numpy.random.get_state()), torch.get_rng_state().tolist()
images, labels = torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.long)
before = state()
first, same, other = (
    as_attack(draws)(torch.nn.Flatten(), images, labels, noise=n).images for n in (1, 1, 2)
)
assert torch.equal(first, same) and not torch.equal(first, other)
try:
    as_attack(fails)(torch.nn.Flatten(), images, labels)
except SettingError:
    assert state() == before
    raise SystemExit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
