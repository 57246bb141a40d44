"""What a look at a model finds before it is attacked or trained, and what it costs."""

import threading
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
from lrat.errors import ModelError
from lrat.evaluation import custom, evaluate_suite
from lrat.evaluation.examination import (
    check_forward,
    check_training,
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


def test_a_batch_norm_without_running_statistics() -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8, track_running_stats=False)
        )

    with pytest.raises(ModelError, match=r"1 images .*2 images pass"):
        check_forward(seeded(0, build).eval(), IMAGES[:2], classes=8, data="digits")


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
    model.sizes.clear()
    assert check_forward(model, IMAGES[:2], classes=10, data="digits") == 10
    assert model.sizes == [2, 1]


@pytest.mark.parametrize("size", [1, 7, 16])
def test_the_batch_size_that_a_network_was_written_for_is_said(size: int) -> None:
    """One that it names in its error, and usual ones."""
    model = Changed(before=lambda images: images.view(size, 64))
    with pytest.raises(ModelError, match=rf"batches of {size} images, .*\.flatten\(1\)") as error:
        check_forward(model, IMAGES[:2], classes=10, data="digits")
    assert "\n" not in str(error.value)


def at_most(images: Tensor) -> Tensor:
    if len(images) > 10:
        raise ValueError("no more")
    return images


def test_a_limit_on_the_batch_is_found_before_the_first_attack(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"threat": THREAT, "suite": SUITE, "folder": tmp_path}
    with pytest.raises(ModelError, match=r"takes 10 images at once, not 20 .* batch_size=10 "):
        lrat.evaluate(Changed(before=at_most), (IMAGES, LABELS), batch_size=20, **settings)
    result = lrat.evaluate(Changed(before=at_most), (IMAGES, LABELS), batch_size=10, **settings)
    assert len(result.index) == 40
    for entry, count in ((lrat.fit, 34), (lrat.check_masking, 40)):
        with pytest.raises(ModelError, match=rf"images at once, not {count} .* out of the model"):
            entry(Changed(before=at_most), (IMAGES, LABELS), threat=THREAT)


ONE_BY_ONE = {
    "squeezed": lambda logits: logits.squeeze(),
    "sixteen at a time": lambda logits: logits.view(16, 10),
    "flat": lambda logits: logits.view(1, -1),
    "none": lambda logits: None,
}


@pytest.mark.parametrize("change", ONE_BY_ONE.values(), ids=ONE_BY_ONE)
def test_answers_to_one_image_or_two_are_refused(change: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ModelError, match=r"for 1 images|2 images|of 2|without logits") as error:
        check_forward(Changed(change), IMAGES[:2], classes=10, data="digits")
    assert "\n" not in str(error.value)


class Odd(nn.Module):
    """Does ``change`` to its logits in train mode, and counts what it is asked."""

    def __init__(self, change: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        self.layer = seeded(0, lambda: nn.Linear(64, 10))
        self.norm = nn.BatchNorm1d(64)
        self.register_buffer("center", torch.zeros(64))
        self.lock = threading.Lock()  # no deep copy
        self.plain, self.asked = torch.zeros(64), 0
        self.change = change

    def forward(self, images: Tensor) -> Any:
        flat = self.norm(images.flatten(1))
        if self.training:
            self.asked += 1
            self.center = 0.5 * self.center + flat.mean(0).detach()
            self.plain += 1
            self.last = flat
            torch.rand(1)
        logits = self.layer(flat - self.center)
        return self.change(logits) if self.training else logits


def checked(model: nn.Module, smallest: int = 8, **settings: Any) -> None:
    others = [(size, [IMAGES[:size]]) for size in (4, 16)]
    what = "the last batch of an epoch"
    check_training(model, IMAGES[:smallest], others, classes=10, what=what, **settings)


@pytest.mark.parametrize("training", [True, False])
def test_the_look_at_training_leaves_no_trace(training: bool) -> None:
    model = Odd().train(training)
    model.norm.eval()
    center, buffers = model.center, {k: v.clone() for k, v in model.state_dict().items()}
    before, modes = torch.random.get_rng_state(), [part.training for part in model.modules()]
    checked(model)
    assert model.center is center
    assert all(torch.equal(value, buffers[name]) for name, value in model.state_dict().items())
    assert model.asked == 0
    assert not model.plain.any()
    assert not hasattr(model, "last")
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), before)


def fails(error: Exception) -> Callable[[Tensor], Tensor]:
    def change(logits: Tensor) -> Tensor:
        raise error

    return change


def few(logits: Tensor) -> Tensor:
    if len(logits) < 10:
        raise ValueError("at least 10")
    return logits


TRAINING = {
    "fewer classes": (lambda logits: logits[:, :7], "7 classes, in eval mode 10"),
    "more classes": (lambda logits: torch.cat([logits, logits], 1), "20 classes"),
    "detached": (lambda logits: logits.detach(), "no gradient"),
    "a list of them": (lambda logits: [logits, logits[:, :9]], "in train mode"),
    "a key": (fails(KeyError("targets")), r"fails in train mode: KeyError: 'targets'$"),
    "too few": (few, r"at least 10; choose batch_size=16 \(--set training.batch_size=16\)$"),
}


@pytest.mark.parametrize(("change", "said"), TRAINING.values(), ids=TRAINING)
def test_what_fails_in_train_mode_alone(change: Callable[[Tensor], Any], said: str) -> None:
    with pytest.raises(ModelError, match=said) as error:
        checked(Odd(change).eval())
    assert "\n" not in str(error.value)


def test_an_answer_that_the_objective_reads_itself_may_be_anything() -> None:
    several = Odd(lambda logits: {"a": [logits], "b": logits[:, :9]})
    checked(several, reads_logits=False)
    with pytest.raises(ModelError, match="may be its logits"):
        checked(several)
    for change, said in ((lambda logits: (logits.detach(), 3), "no gradient"), (few, "=16")):
        with pytest.raises(ModelError, match=said):
            checked(Odd(change), reads_logits=False)


def test_a_frozen_model_may_have_no_gradient() -> None:
    checked(Odd(lambda logits: logits.detach()).requires_grad_(False))


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
    found = []
    for settings in ({}, {"acceleration": "off"}, {"folder": tmp_path}):
        model = Remembering(replaces=replaces).eval()
        result = lrat.evaluate(model, (IMAGES, LABELS), threat=THREAT, suite=SUITE, **settings)
        assert ["buffers" in note for note in result.notes] == [True]
        assert not model.calls
        found.append(result.outcomes.margin)
    assert np.allclose(found[0], found[1], atol=1e-4)
    assert np.allclose(found[1], found[2], atol=1e-6)


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
