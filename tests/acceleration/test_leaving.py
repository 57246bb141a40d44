"""A view that raises or no longer agrees is left: in words, and attacked again."""

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lrat
from builders import random_images, seeded
from experiments.commands import lrat as command
from lrat.acceleration import Choices, accelerate
from lrat.attacks import PGD
from lrat.errors import Interrupted
from lrat.outputs import forward_logits
from lrat.runs.sources import recorded_choices
from lrat.threat import Linf

IMAGES = random_images(12, 3, 8)
LABELS = torch.arange(12) % 4
THREAT = Linf(epsilon=0.1)
FAST = Choices(channels_last=True, precision="bfloat16")


class Flat(nn.Module):
    """As older networks are: ``view`` after a convolution, which channels_last refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(256, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.layer(images)).relu().view(-1, 256))


class _Strict(torch.autograd.Function):
    """Its backward takes contiguous gradients alone."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, most: int) -> Tensor:
        ctx.most, ctx.is_contiguous = most, values.is_contiguous()
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        if not ctx.is_contiguous and len(gradients[0]) > ctx.most:
            raise RuntimeError("only contiguous gradients")
        return gradients[0], None


class Backward(Flat):
    """Raises in backward alone, for batches of more than ``most`` images."""

    def __init__(self, most: int = 0) -> None:
        super().__init__()
        self.most = most

    def forward(self, images: Tensor) -> Tensor:
        hidden = _Strict.apply(self.norm(self.layer(images)).relu(), self.most)
        return self.head(hidden.flatten(1))


class Sizes(Flat):
    """Takes channels_last for batches of one size alone."""

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.norm(self.layer(images)).relu()
        return self.head(hidden.view(-1, 256) if len(hidden) == 7 else hidden.flatten(1))


@pytest.mark.parametrize("choices", [Choices(channels_last=True), FAST], ids=str)
@pytest.mark.parametrize("build", [Flat, Backward], ids=lambda each: each.__name__)
def test_a_candidate_that_raises_is_refused_for_a_simpler_one(
    build: Callable[[], nn.Module], choices: Choices, caplog: pytest.LogCaptureFixture
) -> None:
    model = seeded(0, build).eval()
    with caplog.at_level(logging.WARNING):
        view = accelerate(model, IMAGES, choices=choices)
    assert not view.choices.channels_last
    assert view.folded == 1
    assert "contiguous" in caplog.text or "view" in caplog.text
    assert view.choices.precision == choices.precision
    PGD(threat=THREAT, steps=2, step_size=0.05)(view, IMAGES, LABELS)


@pytest.mark.parametrize("build", [Sizes, lambda: Backward(12)], ids=["forward", "backward"])
def test_what_raises_in_an_attack_alone_is_left_there(build: Callable[[], nn.Module]) -> None:
    model = seeded(0, build).eval()
    view = accelerate(model, IMAGES, choices=Choices(channels_last=True))
    assert view.choices.channels_last
    images, labels = (
        (IMAGES[:7], LABELS[:7])
        if isinstance(model, Sizes)
        else (IMAGES.tile(2, 1, 1, 1), LABELS.tile(2))
    )
    attack = PGD(threat=THREAT, steps=3, step_size=0.05)
    variant = attack(view, images, labels)
    assert not view.choices.channels_last
    assert len(view.notes) == 1
    torch.testing.assert_close(variant.images, attack(model, images, labels).images)
    assert view.check() == view.notes
    assert view.check() == ()


@pytest.mark.parametrize("entry", ["evaluate", "fit", "check_masking"])
def test_older_networks_go_through_every_entry(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrat.acceleration.choice._CHANNELS_LAST_FLOP", 0)
    monkeypatch.setattr("lrat.acceleration.choice._LOW_PRECISION_FLOP", 0)
    model, data = seeded(0, Flat).eval(), (IMAGES, LABELS)
    if entry == "evaluate":
        results = [
            lrat.evaluate(model, data, threat=THREAT, acceleration=way) for way in ("auto", "off")
        ]
        assert results[0].accuracy == results[1].accuracy
    elif entry == "fit":
        lrat.fit(
            *(model, data),
            threat=THREAT,
            method="sat",
            epochs=1,
            batch_size=6,
            validation=0,
            lr=0.01,
        )
    else:
        lrat.check_masking(model, data, threat=THREAT)


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images.contiguous(memory_format=torch.channels_last),
        lambda images: images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2),
        lambda images: images.expand(12, 3, 8, 8)[:, :1].expand(12, 3, 8, 8),
    ],
    ids=["channels_last", "permuted", "expanded"],
)
def test_images_of_any_strides_are_contiguous_in_the_model(
    change: Callable[[Tensor], Tensor],
) -> None:
    model = nn.Sequential(seeded(0, lambda: nn.Linear(192, 4))).eval()
    model.forward = lambda images: model[0](images.view(len(images), -1))  # type: ignore[method-assign]
    images = change(IMAGES)
    result = lrat.evaluate(model, (images, LABELS), threat=THREAT)
    assert len(result.index) == 12
    PGD(threat=THREAT, steps=2, step_size=0.05)(model, images, LABELS)


HIDDEN = {"factor": 1.0}


class Elsewhere(Flat):
    """Its answer depends on what no view can follow: here on which object asks."""

    def __init__(self) -> None:
        super().__init__()
        HIDDEN["owner"] = id(self)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(functional.relu(self.norm(self.layer(images))).flatten(1))
        return logits if id(self) == HIDDEN["owner"] else HIDDEN["factor"] * logits


@pytest.mark.parametrize("choices", [Choices(), FAST], ids=str)
def test_a_view_that_no_longer_agrees_is_left_with_the_numbers(
    choices: Choices, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = seeded(0, Elsewhere).eval()
    view = accelerate(model, IMAGES, choices=choices)
    assert view.check() == ()
    monkeypatch.setitem(HIDDEN, "factor", -3.0)
    with caplog.at_level(logging.WARNING):
        (note,) = view.check()
    assert view.is_plain
    assert note in caplog.text
    assert "%" in note or "e" in note
    torch.testing.assert_close(view(IMAGES), forward_logits(model, IMAGES))


def test_an_evaluation_attacks_again_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy begins to differ with the first attack; nothing of that attack is kept."""
    model = seeded(0, Elsewhere).eval()
    attack = PGD(threat=THREAT, steps=3, step_size=0.05)

    def spoiling(seen: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        HIDDEN["factor"] = 1e-3
        return attack(seen, images, labels).images

    monkeypatch.setitem(HIDDEN, "factor", 1.0)
    from lrat.evaluation import custom

    suite = custom(THREAT, {"own": spoiling})
    result = lrat.evaluate(model, (IMAGES, LABELS), threat=THREAT, suite=suite)
    plain = lrat.evaluate(model, (IMAGES, LABELS), threat=THREAT, suite=suite, acceleration="off")
    assert any("was left" in note for note in result.notes)
    assert result.accuracy == plain.accuracy


def test_the_record_of_the_epoch_says_that_a_view_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(0, Elsewhere)
    monkeypatch.setitem(HIDDEN, "factor", 1.0)

    class Spoiling:
        def on_step(self, progress: Any) -> None:
            HIDDEN["factor"] = -1.0 if progress.epoch == 2 else 1.0

        def on_epoch(self, record: Any) -> None:
            return

    result = lrat.fit(
        model,
        (IMAGES, LABELS),
        threat=THREAT,
        method="sat",
        epochs=3,
        batch_size=12,
        validation=0,
        lr=0.01,
        progress=Spoiling(),
    )
    said = [
        [each["text"] for each in record.notices if each["guard"] == "view"]
        for record in result.records
    ]
    assert [len(each) for each in said] == [0, 1, 0]
    assert "was left" in said[1][0]


BUILT: WeakSet[nn.Module] = WeakSet()


class Alone(Flat):
    """Its copies refuse batches of five images, as they come in training alone."""

    def __init__(self) -> None:
        super().__init__()
        BUILT.add(self)

    def forward(self, images: Tensor) -> Tensor:
        if self not in BUILT and len(images) == 5:
            raise RuntimeError("no five")
        return self.head(self.norm(self.layer(images)).relu().flatten(1))


class Stopping:
    """Asks the run to stop in its second epoch, the view being left in the first."""

    def on_step(self, progress: Any) -> None:
        if progress.epoch == 1 and progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_epoch(self, record: Any) -> None:
        return


def test_a_view_that_was_left_is_known_to_the_run_that_goes_on(tmp_path: Path) -> None:
    """Its note is in the record and the result, and attacks go on as they did."""

    def fit(folder: Path, progress: Any = None) -> Any:
        model = seeded(0, Alone)
        settings: dict[str, Any] = {"method": "sat", "epochs": 2, "batch_size": 5, "lr": 0.01}
        data = (IMAGES[:10], LABELS[:10])
        result = lrat.fit(
            model, data, threat=THREAT, validation=0, out=folder, progress=progress, **settings
        )
        return result, model.head.weight.detach()

    with pytest.raises(Interrupted):
        fit(tmp_path / "stopped", Stopping())
    (result, weight), (whole, expected) = fit(tmp_path / "stopped"), fit(tmp_path / "whole")
    assert torch.equal(weight, expected)
    (note,) = result.notes
    assert "was left" in note
    assert whole.notes == result.notes
    said = [[each["guard"] for each in record.notices] for record in result.records]
    assert said == [["view"], []]


def test_the_folder_of_a_run_says_how_attacks_see_the_model_since(tmp_path: Path) -> None:
    images, labels = IMAGES[:10].numpy(), LABELS[:10].numpy()
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(tmp_path / "data.npz", **arrays)
    (tmp_path / "model.py").write_text(
        "from acceleration.test_leaving import Alone, seeded\n\n\n"
        "def make():\n    return seeded(0, Alone)\n"
    )
    out = tmp_path / "run"
    done = command(
        *("train", "sat", "--data", f"npz:{tmp_path / 'data.npz'}", "--out", out),
        *("--model", f"{tmp_path / 'model.py'}:make", "--threat", "linf:0.1", "--epochs", "1"),
        *("--set", "training.batch_size=5", "--set", "data.validation=0"),
        *("--set", "training.selection=last"),
    )
    assert done.status == 0, done.err
    assert "was left" in done.out
    assert recorded_choices(out) == Choices.plain()
