"""Attacks of other libraries: adapted, checked against their region, and kept from leaking."""

import random
import subprocess
import sys

import numpy
import pytest
import torch
from torch import Tensor, nn

import lrat
from builders import random_images, seeded
from lrat.attacks import PGD, Foreign, as_attack
from lrat.attacks.base import GradientAttack, Variant
from lrat.errors import RegionViolationError, SettingError
from lrat.evaluation import EvaluationResult, custom
from lrat.objectives import Reweighted, Term
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
    attack = PGD(threat=THREAT, steps=1, step_size=0.1)
    assert as_attack(attack) is attack
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


@pytest.mark.parametrize(("function", "text"), [(logits, r"\(3, 4\)"), (nothing, "NoneType")])
def test_a_result_that_is_no_images_is_an_error(function: object, text: str) -> None:
    with pytest.raises(SettingError, match=f"returned {text}.*images of shape"):
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
    """In another process, since run-time type checks draw from Python's random numbers."""
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


class Subclass(GradientAttack):
    """A user's subclass of GradientAttack that calls a function."""

    threat, needs_clean = THREAT, False

    def __init__(self, function):
        self.function = function

    def perturb(self, model, images, labels, noise, clean):
        return Variant(images=self.function(model, images, labels))


class Counted(nn.Module):
    """Linear, after a BatchNorm; ``own`` is a buffer that eval mode must leave alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(1), nn.Linear(25, 3)

    def forward(self, images):
        return self.head(self.norm(images).flatten(1))


def in_training(model, images, labels):
    model.train()
    model(images)
    return images


def writing_data(model, images, labels):
    for value in model.parameters():
        value.data.add_(1)
    return images


def writing_in_place(model, images, labels):
    with torch.no_grad():
        model.head.weight.zero_()
    return images


def replacing(model, images, labels):
    model.norm.running_mean = torch.ones(1)
    model.head.bias = nn.Parameter(torch.ones(3))
    return images


def in_half(model, images, labels):
    model.half()
    return images


def leaving_a_hook(model, images, labels):
    model.norm.register_forward_hook(lambda module, given, output: 0 * output)
    return images


def leaving_a_backward_hook(model, images, labels):
    model.head.register_full_backward_hook(lambda module, given, gradients: (0 * given[0],))
    return images


def without_head(model, images, labels):
    model.head = nn.Identity()
    return images


def with_another_forward(model, images, labels):
    model.forward = lambda images: torch.zeros(len(images), 3)
    return images


def without_eval(model, images, labels):
    model.norm.train()
    return images


def freezing(model, images, labels):
    model.requires_grad_(False)
    return images


CHANGING = [
    in_training,
    without_eval,
    freezing,
    writing_data,
    writing_in_place,
    replacing,
    in_half,
    leaving_a_hook,
]
CHANGING += [leaving_a_backward_hook, without_head, with_another_forward]


@pytest.mark.parametrize("function", CHANGING)
@pytest.mark.parametrize("adapt", [as_attack, Subclass])
def test_what_an_attack_changes_in_the_model_is_put_back_and_said(function, adapt, caplog):
    model = seeded(0, Counted).eval()
    tensors = [*model.parameters(), *model.buffers()]
    before = [value.clone() for value in tensors]
    images = random_images(4, 1, 5)
    labels = model(images).argmax(1)
    result = lrat.evaluate(
        model,
        (images, labels),
        threat=THREAT,
        suite=custom(THREAT, {"a": adapt(function), "b": lambda model, images, labels: images}),
        acceleration="off",
    )
    assert result.worst_case.value == 1
    (note,) = result.notes
    assert note in caplog.text
    named = f"attack {getattr(adapt(function), '_name', 'Subclass')} changes the model"
    assert named in note
    now = [*model.parameters(), *model.buffers()]
    assert all(value is other for value, other in zip(now, tensors, strict=True))
    assert all(torch.equal(value, copy) for value, copy in zip(now, before, strict=True))
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    parts = [model, *model.children()]
    assert not any(part._forward_hooks or part._backward_hooks for part in parts)
    assert not any(part.training for part in parts)
    assert all(value.requires_grad for value in model.parameters())
    assert "forward" not in vars(model)


def seeding_torch(model, images, labels):
    torch.manual_seed(0)
    return images


def seeding_numpy(model, images, labels):
    numpy.random.seed(0)
    return images


def seeding_python(model, images, labels):
    random.seed(0)
    return images


def drawing(model, images, labels):
    push(model, images, labels)
    return images * (1 - random.random() / 50) * (1 - numpy.random.rand() / 50)


class Protocol:
    """An attack of the protocol that does what a function does."""

    provides, needs_clean = frozenset(), False

    def __init__(self, function):
        self.function = function

    def __call__(self, model, images, labels, *, noise=None, clean_logits=None):
        return Variant(images=self.function(model, images, labels))


def data():
    images = random_images(4, 1, 5)
    return images, torch.arange(4) % 3


@pytest.mark.parametrize("function", [seeding_torch, seeding_numpy, seeding_python, drawing])
@pytest.mark.parametrize("adapt", [as_attack, Protocol, Subclass])
def test_an_attack_that_seeds_random_numbers_is_noted(function, adapt):
    suite = custom(THREAT, {"a": adapt(function)})
    result = lrat.evaluate(
        seeded(0, Counted), data(), threat=Linf(epsilon=0.1), suite=suite, batch_size=1
    )
    said = [note for note in result.notes if "follow from the seed" in note]
    assert len(said) == (function is not drawing)


@pytest.mark.parametrize("function", [in_training, freezing, seeding_torch])
@pytest.mark.parametrize("adapt", [as_attack, Protocol, Subclass])
def test_what_an_attack_changes_is_in_the_notes_of_a_training_and_of_a_folder(
    function, adapt, tmp_path
):
    method = Reweighted(terms=[Term(name="a", attack=adapt(function))])
    fitted = lrat.fit(
        *(seeded(0, Counted), data()),
        threat=THREAT,
        method=method,
        epochs=2,
        batch_size=2,
        lr=0.01,
        validation=0,
        out=tmp_path / "run",
        acceleration="off",
    )
    (note,) = fitted.notes
    said = [[each["guard"] for each in record.notices] for record in fitted.records]
    assert said == [["attack"], []]
    suite = custom(THREAT, {"a": adapt(function)})
    model, folder = seeded(0, Counted).eval(), tmp_path / "eval"
    result = lrat.evaluate(
        model, data(), threat=THREAT, suite=suite, folder=folder, acceleration="off"
    )
    assert note in result.notes
    assert note in EvaluationResult.from_folder(folder).notes


@pytest.mark.parametrize("adapt", [lambda function: Foreign(function=function), Subclass])
def test_called_directly_a_user_s_attack_is_protected_from_and_draws_from_the_noise(adapt):
    model = seeded(0, Counted).eval()
    images, labels = data()
    attack = adapt(lambda model, images, labels: drawing(model, images.mul_(0.99), labels))
    first, again, other = (attack(model, images, labels, noise=seed).images for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, data()[0]), "it works on a copy"
    weight = model.head.weight.clone()
    adapt(writing_in_place)(model, images, labels)
    assert torch.equal(model.head.weight, weight)


def of_one_row(model, images, labels):
    return images[:, :, :1]


def failing(model, images, labels):
    return 1 / 0


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (push_too_far, RegionViolationError, r"^Subclass left Linf\(.*\) by 1\.00e-01: "),
        (not_a_number, RegionViolationError, "^Subclass left .* by nan"),
        (of_one_row, SettingError, r"^Subclass returned \(3, 1, 1, 2\), "),
        (
            failing,
            SettingError,
            "^the attack Subclass failed on images .*ZeroDivisionError.*Variant",
        ),
    ],
)
def test_what_a_user_s_perturb_does_wrong_is_one_line(function, error, words):
    with pytest.raises(error, match=words):
        Subclass(function)(nn.Flatten(), IMAGES, LABELS)


def test_what_is_no_variant_is_one_line():
    attack = Subclass(nothing)
    attack.perturb = lambda *given: None
    with pytest.raises(SettingError, match=r"^Subclass returned NoneType: its perturb"):
        attack(nn.Flatten(), IMAGES, LABELS)


class Kept:
    """An attack of the protocol that returns images, as a function does."""

    provides, needs_clean = frozenset(), False

    def __call__(self, model, images, labels, *, noise=None, clean_logits=None):
        return images


@pytest.mark.parametrize(
    "attack",
    [
        lambda model, images, labels: images.to_sparse(),
        lambda model, images, labels: images.to("meta"),
        lambda model, images, labels: images.to(torch.complex64),
        Kept(),
    ],
)
def test_images_of_another_kind_are_one_line(attack):
    model = seeded(0, Counted).eval()
    images = random_images(4, 1, 5)
    data, suite = (images, model(images).argmax(1)), custom(THREAT, {"a": attack})
    with pytest.raises(SettingError, match=r"^.* returned [^\n]*images[^\n]*$"):
        lrat.evaluate(model, data, threat=THREAT, suite=suite)


class Centring(nn.Module):
    """Moves a buffer in eval mode, in place or by a new one."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.register_buffer("centre", torch.zeros(()))
        self.head = nn.Linear(25, 3)

    def forward(self, images):
        moved = 0.5 * self.centre + 0.5 * images.detach().mean()
        if self.in_place:
            self.centre.copy_(moved)
        else:
            self.centre = moved
        return self.head((images - self.centre).flatten(1))


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("acceleration", ["auto", "off"])
def test_a_model_that_writes_its_buffers_in_eval_mode_is_noted_and_put_back(in_place, acceleration):
    model = seeded(0, lambda: Centring(in_place)).eval()
    images = random_images(4, 1, 5)
    result = lrat.evaluate(
        model,
        (images, torch.arange(4) % 3),
        threat=THREAT,
        suite=custom(THREAT, {"b": lambda model, images, labels: images}),
        acceleration=acceleration,
    )
    assert any("writes into its buffers" in note for note in result.notes)
    assert float(model.centre) == 0
