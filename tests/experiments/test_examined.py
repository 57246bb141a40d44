"""What ``fit``, ``evaluate``, ``check_masking`` and the commands say of a model before the work."""

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrat
from builders import seeded
from lrat.attacks import PGD
from lrat.data import image_data, in_order
from lrat.errors import ModelError
from lrat.evaluation import EvaluationResult
from lrat.evaluation.curve import security_curve
from lrat.threat import Linf
from trained import digits, trained

IMAGES, LABELS = (part[:60] for part in digits())
THREAT = Linf(epsilon=0.05)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = seeded(0, lambda: nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images.flatten(1))
        return logits


class Squashed(Model):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).sigmoid()


class Together(Model):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - images.mean(0))


class Still(Model):
    """Cannot be moved or copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def to(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError("`.to` is not supported")


def fit(model: nn.Module, images: Tensor = IMAGES, **settings: Any) -> lrat.FitResult:
    settings = {"method": "natural", "epochs": 1, "validation": 0.2, **settings}
    return lrat.fit(model, (images, LABELS), threat=THREAT, **settings)


ODD = {
    "squashed": (Squashed, IMAGES, "probabilities"),
    "together": (Together, IMAGES, "images beside it"),
    "dark": (Model, IMAGES / 255, "scale the images"),
    "levels": (Model, (16 * IMAGES).byte(), "scale the images"),
}


@pytest.mark.parametrize(("make", "images", "said"), ODD.values(), ids=ODD)
@pytest.mark.parametrize("suite", ["quick", "tier"])
def test_every_suite_says_what_is_odd(
    make: Any, images: Tensor, said: str, suite: str, tmp_path: Path
) -> None:
    arguments = {"threat": THREAT, "suite": suite, "limit": 6, "folder": tmp_path}
    result = lrat.evaluate(make().eval(), (images, LABELS), **arguments)
    (note,) = result.notes
    assert said in note
    assert note in str(result)
    assert EvaluationResult.from_folder(tmp_path).notes == result.notes
    assert lrat.evaluate(make().eval(), (images, LABELS), **arguments).notes == result.notes


@pytest.mark.parametrize(("make", "images", "said"), ODD.values(), ids=ODD)
def test_fit_says_it_once_before_the_run(
    make: Any, images: Tensor, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = fit(make(), images, epochs=2, method="sat", out=tmp_path)
    (note,) = result.notes
    assert said in note
    assert caplog.text.count(said) == 1
    assert result.records[0].notices[0]["guard"] == "model"
    assert all(each["guard"] != "model" for each in result.records[1].notices)
    assert said in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert fit(make(), images, epochs=2, method="sat", out=tmp_path).notes == (note,)


@pytest.mark.parametrize("suite", ["quick", "tier"])
def test_sound_models_and_images_have_no_notes(suite: str) -> None:
    few = (IMAGES[:4], LABELS[:4])
    assert fit(Model()).notes == ()
    assert lrat.evaluate(trained("dense"), few, threat=THREAT, suite=suite).notes == ()


def test_the_panel_says_what_no_check_looks_for() -> None:
    class Low(Model):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).half()

    model = Low()
    model.layer.register_forward_hook(lambda module, given, answer: None)
    panel = lrat.check_masking(model, (IMAGES[:8], LABELS[:8]), threat=THREAT)
    mode, low, hooks = panel.notes
    assert "train mode" in mode
    assert "float16" in low
    assert "hooks of layer" in hooks
    assert f"note: {hooks}" in str(panel)
    assert type(panel).from_dict(panel.as_dict()) == panel


def test_a_curve_looks_once_and_keeps_its_notes(caplog: pytest.LogCaptureFixture) -> None:
    data = image_data(IMAGES[:12], LABELS[:12])
    curve = security_curve(
        Squashed().eval(),
        list(in_order(data, batch_size=6)),
        lambda ball: PGD(threat=ball, steps=2, step_size=ball.epsilon / 2),
        THREAT,
        levels=4,
    )
    (note,) = curve.notes
    assert caplog.text.count("probabilities") == 1
    assert f"note: {note}" in str(curve)
    assert type(curve).from_dict(curve.as_dict(), curve.columns()).notes == curve.notes


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_model_in_place_is_neither_moved_nor_copied(device: str | None) -> None:
    assert fit(Still(), device=device, method="sat").notes == ()
    model, few = Still().eval(), (IMAGES[:8], LABELS[:8])
    assert lrat.evaluate(model, few, threat=THREAT, device=device).notes == ()
    assert lrat.check_masking(model, few, threat=THREAT, device=device).n == 8


def test_a_model_that_cannot_be_moved_is_one_line() -> None:
    for call in (
        lambda: fit(Still(), device="meta"),
        lambda: lrat.evaluate(Still().eval(), (IMAGES, LABELS), threat=THREAT, device="meta"),
    ):
        with pytest.raises(lrat.LratError) as error:
            call()
        assert "\n" not in str(error.value)


class Squeezed(Model):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).squeeze()


class Fixed(Model):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).view(16, 10)


@pytest.mark.parametrize("make", [Squeezed, Fixed])
def test_models_of_one_batch_size_are_refused_before_the_work(make: Any, tmp_path: Path) -> None:
    data = (IMAGES[:17], LABELS[:17])
    for call in (
        lambda: lrat.evaluate(make().eval(), data, threat=THREAT, batch_size=16, folder=tmp_path),
        lambda: lrat.fit(make(), data, threat=THREAT, batch_size=16, out=tmp_path),
        lambda: lrat.check_masking(make().eval(), data, threat=THREAT),
    ):
        with pytest.raises(ModelError) as error:
            call()
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


class MadeLater(nn.Module):
    """Makes its last layer when it sees the first images."""

    def forward(self, images: Tensor) -> Tensor:
        if not hasattr(self, "layer"):
            self.layer = nn.Linear(images[0].numel(), 10)
        logits: Tensor = self.layer(images.flatten(1))
        return logits


@pytest.mark.parametrize("acceleration", ["auto", "off"])
def test_what_a_first_forward_makes_is_trained(acceleration: Any, own_randomness: None) -> None:
    model = MadeLater()
    settings: dict[str, Any] = {"method": "natural", "epochs": 6, "batch_size": 10, "lr": 0.5}
    lrat.fit(model, (IMAGES, LABELS), threat=THREAT, acceleration=acceleration, **settings)
    with torch.no_grad():
        right = (model(IMAGES).argmax(1) == LABELS).float().mean()
    assert right > 0.5


def test_another_batch_size_is_the_cure_only_where_it_is_one() -> None:
    class Norm(Model):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(64)

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(self.norm(images.flatten(1)))

    class Guided(Model):
        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                raise TypeError("targets are missing")
            return super().forward(images)

    with pytest.raises(ModelError, match="choose batch_size=58 "):
        fit(Norm(), batch_size=59, validation=0)
    with pytest.raises(ModelError, match=r"targets are missing$"):
        fit(Guided())
