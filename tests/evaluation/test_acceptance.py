"""What refuses a model before the work, with the batch size that would work."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrat
from builders import seeded
from evaluation.parts import THREAT
from evaluation.test_examination import IMAGES, LABELS, SUITE, Changed
from lrat.errors import ModelError
from lrat.evaluation.acceptance import check_forward, check_training


def test_a_look_at_one_image_and_two_is_all_it_costs() -> None:
    model = Changed()
    assert check_forward(model, IMAGES[:2], classes=10, data="digits") == 10
    assert model.sizes == [2, 1]


def test_a_batch_norm_without_running_statistics() -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8, track_running_stats=False)
        )

    with pytest.raises(ModelError, match=r"1 images .*2 images pass"):
        check_forward(seeded(0, build).eval(), IMAGES[:2], classes=8, data="digits")


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
    """Applies ``change`` to its logits in train mode, and counts its calls."""

    def __init__(self, change: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        self.layer = seeded(0, lambda: nn.Linear(64, 10))
        self.norm = nn.BatchNorm1d(64)
        self.register_buffer("center", torch.zeros(64))
        self.lock = threading.Lock()  # no deep copy
        self.plain, self.calls = torch.zeros(64), 0
        self.change = change

    def forward(self, images: Tensor) -> Any:
        flat = self.norm(images.flatten(1))
        if self.training:
            self.calls += 1
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
    assert model.calls == 0
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
