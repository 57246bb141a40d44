"""What a look at a model finds before it is attacked or trained, and what it costs."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import lrat
from builders import seeded
from evaluation.parts import THREAT, batches_of
from lrat.acceleration import accelerate
from lrat.attacks import PGD
from lrat.evaluation import custom, evaluate_suite
from lrat.evaluation.examination import (
    examine,
    in_train_mode,
    looks_squashed,
)
from lrat.evaluation.forward import classify
from trained import digits, trained

IMAGES, LABELS = (part[1400:1440] for part in digits())
INDEX = np.arange(len(IMAGES))
SUITE = custom(THREAT, {"pgd": PGD(threat=THREAT, steps=2, step_size=0.05)})


class Changed(nn.Module):
    """The trained model with something done to its images and its logits."""

    def __init__(
        self, after: Callable[[Tensor], Any] = lambda logits: logits, before: Any = None
    ) -> None:
        super().__init__()
        self.inner = trained("dense")
        self.after, self.before = after, before
        self.sizes: list[int] = []
        self.eval()

    def forward(self, images: Tensor) -> Any:
        self.sizes.append(len(images))
        images = images if self.before is None else self.before(images)
        return self.after(self.inner(images))


def fresh(*last: nn.Module, classes: int = 10, seed: int = 0) -> nn.Module:
    return seeded(seed, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, classes), *last)).eval()


def notes(model: nn.Module, images: Tensor = IMAGES) -> tuple[str, ...]:
    return examine(model, images, np.arange(len(images)))


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
@pytest.mark.parametrize("count", [1, 2, 40])
def test_sound_models_are_not_spoken_of(kind: str, count: int) -> None:
    assert notes(trained(kind), IMAGES[:count]) == ()


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_nor_are_fresh_networks_of_whatever_size(classes: int) -> None:
    for seed in range(20):
        assert notes(fresh(classes=classes, seed=seed)) == ()


SOUND = {
    "log-softmax": lambda logits: logits.log_softmax(1),
    "cap far away": lambda logits: 30 * (logits / 30).tanh(),
    "centred": lambda logits: logits - logits.mean(1, keepdim=True),
    "positive": lambda logits: logits - logits.amin(1, keepdim=True),
    "masked class": lambda logits: torch.cat(
        [logits, torch.full_like(logits[:, :1], -torch.inf)], 1
    ),
    "constant": lambda logits: 0 * logits + 0.3,
    "no gradient": lambda logits: logits.detach(),
    "double": lambda logits: logits.double(),
}


@pytest.mark.parametrize("change", SOUND.values(), ids=SOUND)
def test_unusual_logits_are_logits(change: Callable[[Tensor], Tensor]) -> None:
    assert notes(Changed(change)) == ()


SQUASHED = {
    "softmax": lambda logits: logits.softmax(1),
    "times 100": lambda logits: 100 * logits.softmax(1),
    "divided": lambda logits: (logits.softmax(1) / 0.05)[:, :],
    "sigmoid": lambda logits: logits.sigmoid(),
    "sigmoid times 5, shifted": lambda logits: 5 * logits.sigmoid() - 2,
    "tanh": lambda logits: (3 * logits).tanh(),
    "mean of two": lambda logits: (logits.softmax(1) + (2 * logits).softmax(1)) / 2,
    "without a graph": lambda logits: 10 * logits.detach().softmax(1),
    "clipped": lambda logits: logits.clamp(0, 1),
}


@pytest.mark.parametrize("change", SQUASHED.values(), ids=SQUASHED)
def test_squashed_answers(change: Callable[[Tensor], Tensor]) -> None:
    (note,) = notes(Changed(change))
    assert "probabilities instead of logits" in note


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Sigmoid()], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("classes", [2, 10])
def test_they_are_seen_before_training_too(last: nn.Module, classes: int) -> None:
    (note,) = notes(fresh(last, classes=classes))
    assert type(last).__name__.lower() in note


def test_a_single_image_says_little_by_its_numbers() -> None:
    assert not looks_squashed(torch.tensor([[0.2, 0.6]]))
    assert looks_squashed(torch.tensor([[0.2, 0.8]]))


LOW = {
    "float16": lambda logits: logits.half(),
    "float16, then float32": lambda logits: logits.half().float(),
    "bfloat16": lambda logits: logits.bfloat16(),
}


@pytest.mark.parametrize("change", LOW.values(), ids=LOW)
def test_low_precision(change: Callable[[Tensor], Tensor]) -> None:
    (note,) = notes(Changed(change))
    assert "float16" in note


COMPANY = {
    "the mean of the batch": lambda images: images - images.mean(0),
    "batch statistics": lambda images: nn.functional.batch_norm(images, None, None, training=True),
    "the brightest image": lambda images: images / images.amax(),
    "the first image": lambda images: images + 0.3 * images[:1],
}


def test_rounding_inside_a_model_that_answers_in_float32_is_no_influence() -> None:
    """What a batch changes in the last of 8 bits says nothing of the images beside it."""

    def rounded(images: Tensor) -> Tensor:
        return (images * (1 + len(images) * 1e-5)).bfloat16().float()

    def drifting(images: Tensor) -> Tensor:
        return images * (1 + len(images) * 1e-3)

    assert notes(Changed(before=rounded)) == ()
    (note,) = notes(Changed(before=drifting))
    assert "depends on the images beside it" in note


@pytest.mark.parametrize(
    ("company", "count"),
    # A single image is the first one itself.
    [pair for pair in product(COMPANY, [1, 2, 3, 40]) if pair != ("the first image", 1)],
)
def test_answers_that_depend_on_the_other_images(company: str, count: int) -> None:
    change = COMPANY[company]
    images = IMAGES[:count] * torch.linspace(0.5, 1, count)[:, None, None, None]
    (note,) = notes(Changed(before=change), images)
    assert "depends on the images beside it" in note


def test_a_random_model_is_said_to_be_that_alone() -> None:
    before = torch.random.get_rng_state()
    (note,) = notes(Changed(lambda logits: logits + torch.randn_like(logits)))
    assert note.startswith("the model is random")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("factor", [1 / 255, 16 / 255])
def test_images_of_another_scale(factor: float) -> None:
    (note,) = notes(trained("dense"), IMAGES * factor)
    assert "scale the images to [0, 1]" in note


def test_hooks_of_the_user_and_those_that_are_part_of_the_model() -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), parametrizations.spectral_norm(nn.Linear(64, 8)), nn.Linear(8, 10)
        )

    model = seeded(0, build).eval()
    prune.l1_unstructured(model[2], "weight", 0.5)
    assert notes(model) == ()
    kept: list[Tensor] = []
    handle = model[1].register_forward_hook(lambda module, given, answer: kept.append(answer))
    (note,) = notes(model)
    assert note.startswith("hooks of 1 run")
    handle.remove()
    model.register_forward_pre_hook(lambda module, given: None)
    (note,) = notes(model)
    assert note.startswith("hooks of Sequential run")


def test_train_mode_is_a_note() -> None:
    model = fresh()
    assert in_train_mode(model) == ()
    (note,) = in_train_mode(model.train())
    assert "train mode" in note
    suite = custom(THREAT, {"none": lambda model, images, labels: images})
    result = evaluate_suite(model, batches_of(IMAGES, LABELS), suite)
    assert result.notes == (note,)
    assert model.training


def test_a_wrapper_around_a_model_in_eval_mode_is_no_note() -> None:
    wrappers = [
        nn.DataParallel(fresh()),
        nn.Sequential(fresh(), nn.Identity()),
        accelerate(fresh()),
    ]
    wrappers += [torch.optim.swa_utils.AveragedModel(fresh())]
    assert [in_train_mode(model) for model in wrappers] == [()] * 4
    for model in (nn.Sequential(fresh(), nn.Dropout()), nn.Sequential(fresh(), nn.BatchNorm1d(10))):
        assert len(in_train_mode(model)) == 1


def test_a_look_costs_a_handful_of_forwards() -> None:
    model = Changed()
    logits = classify(model, IMAGES, INDEX, "natural")
    model.sizes.clear()
    examine(model, IMAGES, INDEX, logits)
    assert sorted(model.sizes) == [1, 16, 20, 40]


class Remembering(nn.Module):
    """Answers by how often it was called in eval mode: by a buffer that it writes or replaces."""

    def __init__(self, *, replaces: bool) -> None:
        super().__init__()
        self.inner, self.replaces = trained("dense"), replaces
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        if self.replaces:
            self.calls = self.calls + 1
        else:
            self.calls += 1
        return self.inner(images) * (1 + self.calls.sin() / 2)


@pytest.mark.parametrize("replaces", [False, True])
def test_what_is_looked_at_before_changes_no_number_of_a_model_that_remembers(
    replaces: bool, tmp_path: Path
) -> None:
    losses = []
    for settings in ({}, {"acceleration": "off"}, {"folder": tmp_path}):
        model = Remembering(replaces=replaces).eval()
        result = lrat.evaluate(model, (IMAGES, LABELS), threat=THREAT, suite=SUITE, **settings)
        assert ["buffers" in note for note in result.notes] == [True]
        assert not model.calls
        losses.append(result.outcomes.margin)
    assert np.allclose(losses[0], losses[1], atol=1e-4)
    assert np.allclose(losses[1], losses[2], atol=1e-6)


@pytest.mark.parametrize("replaces", [False, True])
def test_checking_a_view_changes_no_buffer(replaces: bool) -> None:
    model = Remembering(replaces=replaces).eval()
    view = lrat.accelerate(model, IMAGES)
    assert view.check() == ()
    assert not model.calls


@pytest.mark.parametrize("replaces", [False, True])
@pytest.mark.parametrize("count", [1, 40])
def test_a_model_that_remembers_is_not_taken_for_a_random_one(replaces: bool, count: int) -> None:
    (note,) = notes(Remembering(replaces=replaces).eval(), IMAGES[:count])
    assert "writes into its buffers" in note
