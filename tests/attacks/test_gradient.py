"""The gradient that attacks follow, of networks that make it hard to take."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the community's name
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import lrat
from builders import Net, clustered, seeded
from lrat.attacks import APGD, CW, FAB, PGD, Attack
from lrat.attacks.gradient import image_gradient
from lrat.errors import ModelError, NoGradientError
from lrat.evaluation import custom
from lrat.losses import cross_entropy, targeted_dlr
from lrat.threat import L2, Linf

THREAT = Linf(epsilon=0.05)
WIDE = Linf(epsilon=0.2)
IMAGES, LABELS = clustered(16)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    model = seeded(1, Net)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES), LABELS).backward()
        optimizer.step()
    with torch.no_grad():
        top = model(IMAGES).topk(2, 1).values
        model.head.weight *= 40 / (top[:, 0] - top[:, 1]).median()
        model.head.bias *= 40 / (top[:, 0] - top[:, 1]).median()
    return model.state_dict()


def of(kind: type[Net], weights: dict[str, Tensor]) -> Net:
    model = seeded(0, kind)
    model.load_state_dict(weights)
    return model.eval()


class Reentrant(Net):
    def forward(self, images: Tensor) -> Tensor:
        return self.head(checkpoint(self.features, images, use_reentrant=True))


class ReentrantHead(Net):
    def forward(self, images: Tensor) -> Tensor:
        return checkpoint(self.head, self.features(images), use_reentrant=True)


@pytest.fixture
def checkpoints_are_quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
        yield


@pytest.mark.usefixtures("checkpoints_are_quiet")
@pytest.mark.parametrize("kind", [Reentrant, ReentrantHead])
@pytest.mark.parametrize("acceleration", ["auto", "off"])
def test_a_reentrant_checkpoint_changes_no_number(
    kind: type[Net], acceleration: Any, weights: dict[str, Tensor]
) -> None:
    pgd = PGD(threat=WIDE, steps=3, step_size=0.1)
    suite = custom(WIDE, {"pgd": pgd, "fab": FAB(threat=WIDE, steps=3, targets=2)})
    model, plain = of(kind, weights), of(Net, weights)
    frozen = model.get_parameter("head.bias")
    frozen.requires_grad_(False)
    gradient, expected = (
        lrat.evaluate(each, (IMAGES, LABELS), threat=WIDE, suite=suite, acceleration=acceleration)
        for each in (model, plain)
    )
    assert gradient.accuracy == expected.accuracy
    assert all(value.grad is None for value in model.parameters())
    assert [value.requires_grad for value in model.parameters()] == [True, True, True, False]


@pytest.mark.usefixtures("checkpoints_are_quiet")
def test_such_a_model_can_be_trained_and_examined(weights: dict[str, Tensor]) -> None:
    data = (IMAGES, LABELS)
    lrat.fit(of(Reentrant, weights), data, threat=THREAT, method="sat", epochs=1, validation=0)
    panel = lrat.check_masking(seeded(0, Reentrant), (IMAGES[:4], LABELS[:4]), threat=THREAT)
    assert panel["input gradients"].status == "passed"


class HalfOut(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).half()


class HalfInside(Net):
    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            logits = super().forward(images)
        return logits.float()


class HalfCheckpointed(Net):
    def forward(self, images: Tensor) -> Tensor:
        return checkpoint(self._inside, images, use_reentrant=True)

    def _inside(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return Net.forward(self, images).float()


class HalfWeights(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.half())

    def load_state_dict(self, *given: Any, **named: Any) -> Any:
        loaded = super().load_state_dict(*given, **named)
        self.half()
        return loaded


ATTACKS: dict[str, Attack] = {
    "pgd": PGD(threat=WIDE, steps=20, step_size=0.05),
    "pgd-l2": PGD(threat=L2(epsilon=3), steps=20, step_size=0.75),
    "cw": CW(threat=WIDE, steps=20, step_size=0.05),
    "apgd": APGD(threat=WIDE, steps=20),
    "apgd-t": APGD(threat=WIDE, steps=10, loss=targeted_dlr, targets=3),
    "fab": FAB(threat=WIDE, steps=10, targets=3),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("kind", [HalfOut, HalfInside, HalfCheckpointed, HalfWeights])
@pytest.mark.usefixtures("checkpoints_are_quiet")
def test_attacks_through_float16_find_what_they_find_in_float32(
    kind: type[Net], attack: Attack, weights: dict[str, Tensor]
) -> None:
    plain = of(Net, weights)
    robust = []
    for model in (plain, of(kind, weights)):
        with torch.no_grad():
            robust.append(plain(attack(model, IMAGES, LABELS, noise=0).images).argmax(1) == LABELS)
    assert int((~robust[0]).sum()) > 0
    assert int((robust[0] != robust[1]).sum()) <= 1


def test_the_size_of_a_gradient_through_float16_is_right(weights: dict[str, Tensor]) -> None:
    loss = cross_entropy.prepare(LABELS)
    expected, losses, _ = image_gradient(of(Net, weights), loss, IMAGES)
    gradient, low_losses, _ = image_gradient(of(HalfOut, weights), loss, IMAGES)
    assert float(losses.min()) < 1e-7  # beyond float16
    torch.testing.assert_close(low_losses, losses, rtol=0.2, atol=1e-3)
    norms, low_norms = (each.flatten(1).norm(dim=1) for each in (expected, gradient))
    torch.testing.assert_close(low_norms, norms, rtol=0.2, atol=1e-12)


def _autocast() -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.float16)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": _autocast,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


def numbers(weights: dict[str, Tensor], acceleration: Any) -> list[Any]:
    """All public functions, called on one model and its images."""
    data = (IMAGES.clone(), LABELS.clone())
    suite = custom(WIDE, {"pgd": ATTACKS["pgd"]})
    settings: Any = {"threat": WIDE, "acceleration": acceleration}
    model = of(Net, weights)
    result = lrat.evaluate(model, data, suite=suite, **settings)
    direct = ATTACKS["pgd"](model, *data, noise=0).images
    lrat.fit(model, data, method="sat", epochs=1, lr=0.001, **settings)
    return [
        result.accuracy,
        direct.tolist(),
        model.head.weight.detach().tolist(),
    ]


@pytest.mark.parametrize("acceleration", ["auto", "off"])
def test_what_the_caller_switched_on_changes_no_number(
    acceleration: Any, weights: dict[str, Tensor]
) -> None:
    expected = numbers(weights, acceleration)
    for name, context in CONTEXTS.items():
        with context():
            assert numbers(weights, acceleration) == expected, name


def test_the_panel_sees_gradients_inside_inference_mode() -> None:
    with torch.inference_mode():
        panel = lrat.check_masking(seeded(0, Net), (IMAGES[:4], LABELS[:4]), threat=THREAT)
    assert panel["input gradients"].value == 0


def test_weights_of_inference_mode_stay_what_they_were(weights: dict[str, Tensor]) -> None:
    with torch.inference_mode():
        model = of(Net, weights)
    before = list(model.parameters())
    ATTACKS["pgd"](model, IMAGES, LABELS)
    assert all(one is other for one, other in zip(model.parameters(), before, strict=True))


class Detached(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.detach())


class Underived(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.igamma(images + 1, torch.ones_like(images)))


class Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.round()


class Undefined(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(Step.apply(images))


@pytest.mark.parametrize("kind", [Detached, Underived, Undefined])
def test_a_model_without_gradients_is_told_from_one_that_fails(kind: type[Net]) -> None:
    with pytest.raises(NoGradientError, match="Square") as error:
        image_gradient(seeded(0, kind), cross_entropy.prepare(LABELS), IMAGES)
    assert "\n" not in str(error.value)
    panel = lrat.check_masking(seeded(0, kind), (IMAGES[:4], LABELS[:4]), threat=THREAT)
    assert panel["input gradients"].status == "failed"


class Breaking(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise KeyError("lost")


class BreaksBack(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(Breaking.apply(images))


class Small(Net):
    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 8 and torch.is_grad_enabled():
            raise ValueError("at most 8 images")
        return super().forward(images)


@pytest.mark.parametrize(("kind", "said"), [(BreaksBack, "lost"), (Small, "at most 8")])
def test_what_a_model_raises_in_an_attack_names_it_and_the_batch(
    kind: type[Net], said: str
) -> None:
    model = seeded(0, kind).eval()
    suite = custom(THREAT, {"mine": APGD(threat=THREAT, steps=3)})
    labels = model(IMAGES[:1]).argmax(1).expand(16)
    with pytest.raises(ModelError, match=rf"under mine: the model fails on \d+ .*{said}") as error:
        lrat.evaluate(model, (IMAGES, labels), threat=THREAT, suite=suite, acceleration="off")
    assert "\n" not in str(error.value)
    assert not isinstance(error.value, NoGradientError)
    panel = lrat.check_masking(model, (IMAGES, labels), threat=THREAT, acceleration="off")
    assert panel["input gradients"].status == "not run"
    assert said in panel["input gradients"].sentence
