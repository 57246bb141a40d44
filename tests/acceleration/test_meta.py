"""On the device ``meta``, which holds no numbers: what mixes devices or reads a value raises."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrat
from builders import random_images, seeded
from lrat.acceleration import Choices, FastView
from lrat.attacks import CW, PGD, SAA
from lrat.data import ImageData
from lrat.data.inputs import trusting
from lrat.distributed.group import SingleProcess
from lrat.experiments.api import _objective
from lrat.models import SmallCNN
from lrat.objectives.base import StepContext
from lrat.outputs import forward_logits
from lrat.randomness import Keyed
from lrat.threat import Linf
from lrat.training.guards.readings import Examination
from lrat.types import Batch

THREAT = Linf(epsilon=0.1)
IMAGES = random_images(12, 3, 8)
LABELS = torch.arange(12) % 4


def network() -> nn.Module:
    return seeded(0, lambda: SmallCNN(channels=3, size=8, classes=4, width=4))


@pytest.mark.parametrize(
    "attack",
    [
        PGD(threat=THREAT, steps=3, step_size=0.05),
        CW(threat=THREAT, steps=3, step_size=0.05),
        SAA(threat=THREAT, steps=3),
    ],
    ids=["pgd", "cw", "saa"],
)
@pytest.mark.parametrize("accelerated", [False, True])
def test_attacks_wait_for_no_device_and_stay_on_theirs(attack: Any, accelerated: bool) -> None:
    model, images, labels = network().to("meta"), IMAGES.to("meta"), LABELS.to("meta")
    if accelerated:
        model = FastView(model, Choices(channels_last=True), images)
        model.refresh()
    noise = Keyed(torch.zeros(12, dtype=torch.int64, device="meta"))
    with trusting():
        variant = attack(model, images, labels, noise=noise)
    assert variant.images.is_meta
    assert variant.images.shape == images.shape


@pytest.mark.parametrize("method", ["sat", "lrat-saa+cw", "lrat-saa", "trades"])
def test_a_training_step_waits_for_no_device_before_it_looks_at_its_gradient(method: str) -> None:
    """Attack, losses, weights and backward; finite or not is read afterwards, once a step."""
    model = network().to("meta").train()
    view = FastView(model, Choices(), IMAGES.to("meta"))
    index = torch.arange(12, device="meta")
    batch = Batch(images=IMAGES.to("meta"), labels=LABELS.to("meta"), index=index)
    context = StepContext(epoch=30, progress=0.5, noise=Keyed(index), memory={})
    objective, _ = _objective(method, THREAT)
    with trusting():
        variants = objective.attack(view.refresh(), batch, context)
        output = objective.loss(model, batch, variants, context)
        Examination()(view, batch, variants, group=SingleProcess(), counts=True)
    output.total.backward()
    assert all(value.grad is not None and value.grad.is_meta for value in model.parameters())


@pytest.fixture
def elsewhere() -> Iterator[None]:
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("entry", ["evaluate", "fit", "check_masking", "accelerate"])
def test_a_default_device_moves_nothing(entry: str, elsewhere: None) -> None:
    model = network_here()
    images, labels = IMAGES, LABELS
    if entry == "evaluate":
        result = lrat.evaluate(model.eval(), (images, labels), threat=THREAT)
        assert len(result.index) == 12
    elif entry == "fit":
        result = lrat.fit(
            model, (images, labels), threat=THREAT, epochs=1, batch_size=5, lr=0.01, validation=0.3
        )
        assert result.records[0].loss is not None
    elif entry == "check_masking":
        assert lrat.check_masking(model.eval(), (images, labels), threat=THREAT).n == 12
    else:
        assert lrat.accelerate(model.eval(), images)(images).device.type == "cpu"


def network_here() -> nn.Module:
    with torch.device("cpu"):
        return network()


def test_labels_and_rows_of_another_device_come_to_the_images() -> None:
    """The other way round than usual, as meta keeps no labels to check."""
    data = ImageData(
        images=IMAGES, labels=LABELS, index=torch.arange(12), class_names=("a", "b", "c", "d")
    )

    class Rows(Tensor):
        moved: list[Any]

        def to(self, *where: Any, **named: Any) -> Tensor:
            self.moved.append(where[0])
            return self.as_subclass(Tensor)

    rows = torch.arange(3).as_subclass(Rows)
    rows.moved = []
    assert len(data.select(rows)) == len(data.batch(rows)) == 3
    assert rows.moved == [IMAGES.device] * 2


def test_a_model_s_forward_on_meta_runs_through_the_door() -> None:
    assert forward_logits(network().to("meta").eval(), IMAGES.to("meta")).is_meta
