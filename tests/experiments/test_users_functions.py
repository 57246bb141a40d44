"""Losses, schedules and augmentations of the user's: what they return, and what they raise."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the community's name
from torch import Tensor, nn

import lrat
from builders import seeded
from lrat.attacks import PGD
from lrat.attacks.base import Variant
from lrat.errors import LratError, NonFiniteError, SettingError
from lrat.evaluation import custom
from lrat.models import PickOutput
from lrat.objectives import ObjectiveOutput, StepContext
from lrat.threat import Linf
from lrat.types import Batch

THREAT = Linf(epsilon=0.1)
LABELS = torch.arange(12) % 3
IMAGES = torch.rand(12, 1, 5, 5, generator=torch.Generator().manual_seed(0))
SUITE = custom(THREAT, {"pgd": PGD(threat=THREAT, steps=2, step_size=0.05)})


def network() -> nn.Module:
    return seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(25, 3)))


def evaluated(loss: Any) -> Any:
    data = IMAGES, network()(IMAGES).argmax(1)
    return lrat.evaluate(network().eval(), data, threat=THREAT, suite=SUITE, loss=loss)


def plain(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def fails(*given: Any) -> Any:
    raise KeyError("of\nthe user")


def writing(logits: Tensor, labels: Tensor) -> Tensor:
    """z_max of the wrong classes - z_y, by writing into the logits."""
    right = logits.clone().gather(1, labels[:, None])[:, 0]
    logits[torch.arange(len(logits)), labels] = -1e9
    return logits.max(1).values - right


def not_writing(logits: Tensor, labels: Tensor) -> Tensor:
    return writing(logits.clone(), labels)


NONE = [fails, lambda z, y: None, lambda z, y: 1.0, lambda z, y: list(z[:, 0])]
NONE += [lambda z, y: z[:, 0].to(torch.complex64), lambda z, y: plain(z, y)[:, None]]


@pytest.mark.parametrize("loss", NONE)
def test_a_loss_that_is_none_is_one_line(loss: Callable[..., Any]) -> None:
    with pytest.raises(SettingError, match=r"^loss [^\n]*one value per image[^\n]*$"):
        evaluated(loss)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_no_number_for_some_images_is_refused(value: float) -> None:
    """Its gradient there would be 0: attacks stand still, and the images look robust."""
    with pytest.raises(NonFiniteError, match="loss of your own"):
        evaluated(lambda z, y: torch.where(y == 0, value, plain(z, y)))


def test_a_loss_may_write_into_the_logits_and_answer_in_any_precision() -> None:
    """Counted as fooled is what the model answers, not what the loss left of it."""
    found, expected = evaluated(writing), evaluated(not_writing)
    assert found.accuracy == expected.accuracy
    for kind in (torch.float64, torch.bfloat16):
        assert evaluated(lambda z, y, kind=kind: plain(z, y).to(kind)).worst_case.value < 1


def fitted(**options: Any) -> Any:
    options = {"epochs": 1, "batch_size": 6, "validation": 0, "method": "natural", **options}
    return lrat.fit(network(), (IMAGES, LABELS), threat=THREAT, **options)


@pytest.mark.parametrize(
    ("name", "function"),
    [("schedule", each) for each in (fails, lambda *a: None, lambda *a: "x", lambda lr: lr)]
    + [("augmentation", each) for each in (fails, lambda i, n: None, lambda i, n: (i, n))]
    + [("augmentation", each) for each in (lambda i, n: i[:1], lambda i, n: i.long(), abs)],
)
def test_other_functions_of_the_users_are_one_line(name: str, function: Any) -> None:
    with pytest.raises(LratError, match=rf"^{name}=[^\n]*it is called with[^\n]*$"):
        fitted(**{name: function})


def test_an_augmentation_may_answer_in_double_precision() -> None:
    found = fitted(augmentation=lambda images, noise: images.double().requires_grad_())
    assert found.records[0].loss > 0


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise KeyError("of the user")


def test_what_the_model_raises_backward_in_training_is_one_line() -> None:
    model = network()
    model.register_forward_hook(
        lambda module, given, output: Broken.apply(output) if module.training else output
    )
    with pytest.raises(LratError, match=r"^the model fails on 6 images [^\n]*of the user[^\n]*$"):
        lrat.fit(
            model, (IMAGES, LABELS), threat=THREAT, method="natural", batch_size=6, validation=0
        )


class Exits(nn.Module):
    """Two answers in train mode, each with logits of its own; the last one alone in eval mode."""

    def __init__(self, change: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.early, self.late = nn.Linear(25, 6), nn.Linear(6, 3), nn.Linear(6, 3)
        self.change = change

    def forward(self, images: Tensor) -> Any:
        hidden = self.body(images.flatten(1)).relu()
        late = self.late(hidden)
        return self.change(self.early(hidden), late) if self.training else late


class Both:
    """An objective of the user's that descends the loss of both."""

    def attack(self, view: nn.Module, batch: Batch, step: StepContext) -> dict[str, Variant]:
        return {"a": PGD(threat=THREAT, steps=1, step_size=0.1)(view, batch.images, batch.labels)}

    def loss(self, model: nn.Module, batch: Batch, variants: Any, step: Any) -> ObjectiveOutput:
        answer = model(variants["a"].images)
        answer = list(answer.values()) if isinstance(answer, dict) else answer
        each = sum(plain(logits, batch.labels) for logits in answer)
        return ObjectiveOutput(
            total=each.sum(), normalizer=torch.tensor(float(len(each))), per_example={}
        )


SEVERAL = {
    "tuple": lambda early, late: (early, late),
    "dictionary": lambda early, late: {"early": early, "late": late},
}


@pytest.mark.parametrize("change", SEVERAL.values(), ids=SEVERAL)
@pytest.mark.parametrize("acceleration", ["auto", "off"])
@pytest.mark.parametrize("precision", ["float32", "bf16-mixed"])
def test_an_objective_may_read_what_a_network_answers_in_training(
    change: Any, acceleration: Any, precision: Any
) -> None:
    model = seeded(0, lambda: Exits(change))
    before = [value.detach().clone() for value in model.parameters()]
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 4, "lr": 0.01, "validation": 0}
    result = lrat.fit(
        *(model, (IMAGES, LABELS)),
        threat=THREAT,
        method=Both(),
        acceleration=acceleration,
        precision=precision,
        **settings,
    )
    assert not any(map(torch.equal, before, model.parameters()))
    passes = result.records[0].passes
    assert passes["update_forwards"] == passes["update_backwards"] == 1
    with pytest.raises(LratError, match=r"^[^\n]*PickOutput[^\n]*$"):
        lrat.fit(model, (IMAGES, LABELS), threat=THREAT, method="sat", **settings)
    key: Any = 1 if isinstance(change(0, 1), tuple) else "late"
    picked = PickOutput(model, key)
    lrat.fit(picked, (IMAGES, LABELS), threat=THREAT, method="sat", **settings)
