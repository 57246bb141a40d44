"""Calls of a user's model: it gets copies, and its logits are identified or refused."""

import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the community's name
from torch import Tensor, nn

import lrat
from builders import Net, clustered, seeded
from lrat.attacks import APGD, CW, FAB, PGD, Square
from lrat.errors import LratError, ModelError, NonFiniteError, StopNow
from lrat.evaluation import custom
from lrat.losses import dlr, logit_margin, targeted_dlr
from lrat.models import PickOutput
from lrat.outputs import NEVER, forward_logits, logits_of
from lrat.threat import Linf

THREAT = Linf(epsilon=0.05)
IMAGES, LABELS = clustered(24)
LOGITS, FEATURES, MAPS = torch.zeros(24, 4), torch.zeros(24, 9), torch.zeros(24, 9, 2, 2)


class InPlace(Net):
    def forward(self, images: Tensor) -> Tensor:
        images -= 0.45
        images /= 0.25
        return super().forward(images)


class InPlaceLayer(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(F.relu(images.sub_(0.45), inplace=True))


class Beside(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images - 0.45) / 0.25)


class BesideLayer(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(F.relu(images - 0.45))


def built(kind: type[nn.Module]) -> nn.Module:
    return seeded(3, kind).eval()


def user_attack(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """A user's attack: one step, and another forward of the same tensor."""
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), labels), leaf)
    moved = (images + THREAT.epsilon * gradient.sign()).clamp(0, 1)
    model(moved)
    return moved


SUITE = custom(
    THREAT,
    {
        "pgd": PGD(threat=THREAT, steps=3, step_size=0.02),
        "square": Square(threat=THREAT, queries=10),
        "own": user_attack,
    },
)


@pytest.mark.parametrize("acceleration", ["auto", "off"])
@pytest.mark.parametrize("pair", [(InPlace, Beside), (InPlaceLayer, BesideLayer)])
def test_a_model_that_writes_into_its_images_has_its_twin_s_numbers(
    pair: tuple[type[nn.Module], type[nn.Module]], acceleration: str
) -> None:
    before = IMAGES.clone()
    result, plain = (
        lrat.evaluate(
            built(kind), (IMAGES, LABELS), threat=THREAT, suite=SUITE, acceleration=acceleration
        )
        for kind in pair
    )
    assert torch.equal(IMAGES, before)
    for column, values in plain.outcomes.columns().items():
        assert (result.outcomes.columns()[column] == values).all(), column


@pytest.mark.parametrize("method", ["natural", "trades", "lrat-saa+cw"])
def test_training_such_a_model_leaves_the_images_alone(method: str) -> None:
    before = IMAGES.clone()
    weights = []
    for kind in (InPlace, Beside):
        model = built(kind)
        lrat.fit(
            model, (IMAGES, LABELS), threat=THREAT, method=method, epochs=2, validation=0, lr=0.01
        )
        weights.append(model.get_parameter("head.weight"))
    assert torch.equal(IMAGES, before)
    torch.testing.assert_close(weights[0], weights[1])


def test_the_panel_is_that_of_the_twin() -> None:
    result, plain = (
        lrat.check_masking(built(kind), (IMAGES, LABELS), threat=THREAT)
        for kind in (InPlace, Beside)
    )
    assert result == plain


class Named(NamedTuple):
    aux: Tensor
    logits: Tensor


class Unnamed(NamedTuple):
    hidden: Tensor
    scores: Tensor


@dataclass
class Record:
    logits: Tensor
    hidden: Tensor


class Itself:
    """As a mock in a test: every attribute is another mock."""

    @property
    def logits(self) -> "Itself":
        return Itself()


VALID: dict[str, Any] = {
    "tensor": LOGITS,
    "one of a tuple": (LOGITS, MAPS),
    "last of a list": [MAPS, None, "words", LOGITS],
    "a tuple of logits and labels": (LABELS, LOGITS),
    "named tuple, second": Named(aux=FEATURES, logits=LOGITS),
    "named tuple without the name": Unnamed(hidden=MAPS, scores=LOGITS),
    "dataclass": Record(logits=LOGITS, hidden=FEATURES),
    "mapping": {"aux": FEATURES, "logits": LOGITS},
    "ordered mapping": OrderedDict(hidden=MAPS, out=LOGITS),
    "object": SimpleNamespace(aux=FEATURES, logits=LOGITS),
    "nested": {"logits": {"main": LOGITS, "map": MAPS}},
    "twice the same": (LOGITS, LOGITS),
    "one column beside": (torch.zeros(24, 1), LOGITS),
    "of another batch": (torch.zeros(7, 4), LOGITS),
    "None under the name": {"logits": None, "out": LOGITS},
}
REFUSED: dict[str, tuple[Any, str]] = {
    "features first": ((FEATURES, LOGITS), r"output\[0\] \(24, 9\), output\[1\] \(24, 4\)"),
    "logits first": ((LOGITS, FEATURES), "PickOutput"),
    "exits": ([LOGITS, LOGITS + 1], "2 tensors"),
    "exits in a list": ((LOGITS, [LOGITS + 1, LOGITS + 2]), r"output\[1\]\[0\]"),
    "mapping": ({"a": LOGITS, "b": FEATURES}, r"output\['a'\]"),
    "several under the name": ({"logits": [LOGITS, FEATURES]}, "2 tensors"),
    "none": ((MAPS, "words"), "tuple without logits"),
    "nothing": (None, "NoneType without logits"),
    "a row too few": (LOGITS[1:], r"\(23, 4\) for 24 images"),
    "squeezed": (LOGITS[:, 0], r"\(24,\) for 24 images"),
    "one class": (LOGITS[:, :1], "K >= 2"),
    "whole numbers": (LABELS[:, None].expand(24, 4), "floating"),
    "one number": (LOGITS.sum(), "for 24 images"),
    "no end": (Itself(), "Itself without logits"),
}


@pytest.mark.parametrize("output", VALID.values(), ids=VALID)
def test_the_logits_are_found(output: Any) -> None:
    assert logits_of(output, 24) is LOGITS


@pytest.mark.parametrize(("output", "said"), REFUSED.values(), ids=REFUSED)
def test_no_output_is_guessed(output: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said) as error:
        logits_of(output, 24)
    assert "\n" not in str(error.value)


class Both(Net):
    def forward(self, images: Tensor) -> Any:
        features = self.features(images)
        return features, self.head(features)


class BothInTraining(Net):
    def forward(self, images: Tensor) -> Any:
        features = self.features(images)
        return (features, self.head(features)) if self.training else self.head(features)


CALLS: dict[str, Callable[[nn.Module], Any]] = {
    "evaluate": lambda model: lrat.evaluate(model, (IMAGES, LABELS), threat=THREAT, suite=SUITE),
    "fit": lambda model: lrat.fit(
        model, (IMAGES, LABELS), threat=THREAT, method="sat", epochs=1, validation=0
    ),
    "check_masking": lambda model: lrat.check_masking(model, (IMAGES, LABELS), threat=THREAT),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_several_outputs_are_a_question_everywhere(call: Callable[[nn.Module], Any]) -> None:
    with pytest.raises(ModelError, match="2 tensors that may be its logits"):
        call(built(Both))
    call(PickOutput(built(Both), 1))


def test_the_question_is_asked_of_training_too() -> None:
    with pytest.raises(LratError, match="2 tensors that may be its logits"):
        CALLS["fit"](built(BothInTraining))
    CALLS["evaluate"](built(BothInTraining))


@pytest.mark.parametrize(
    ("output", "key"),
    [
        ((FEATURES, LOGITS), 1),
        ({"a": FEATURES, "b": LOGITS}, "b"),
        (Unnamed(hidden=FEATURES, scores=LOGITS), "scores"),
    ],
)
def test_one_output_is_picked(output: Any, key: int | str) -> None:
    class Giving(nn.Module):
        def forward(self, images: Tensor) -> Any:
            return output

    assert forward_logits(PickOutput(Giving(), key), IMAGES).equal(LOGITS)


class Raising(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, images: Tensor) -> Tensor:
        raise self.error


class _Odd(BaseException):
    pass


@pytest.mark.parametrize(
    "error", [ValueError("bad\nvalue"), SystemExit(0), GeneratorExit(), _Odd("odd"), KeyError("k")]
)
def test_what_a_model_raises_is_one_line_with_the_batch(error: BaseException) -> None:
    with pytest.raises(ModelError, match=f"24 images .3, 8, 8.: {type(error).__name__}") as caught:
        forward_logits(Raising(error), IMAGES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        StopNow(),
        MemoryError(),
        RuntimeError("CUDA out of memory"),
        ModelError("ours"),
    ],
)
def test_interrupts_memory_and_our_own_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        forward_logits(Raising(error), IMAGES)
    assert caught.value is error


def test_minus_infinity_is_finite_and_never_chosen() -> None:
    class Masked(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = images.flatten(1)[:, :3]
            return torch.cat([logits, torch.full_like(logits, -torch.inf)], 1)

    leaf = IMAGES.clone().requires_grad_()
    logits = forward_logits(Masked(), leaf)
    assert logits[:, 3:].eq(NEVER).all()
    torch.logsumexp(logits, 1).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert leaf.grad.any()


class Masked(Net):
    """Two more classes, masked by ``value``."""

    value, few = -torch.inf, False

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        logits = logits[:, :2] if self.few else logits
        return torch.cat([logits, torch.full_like(logits[:, :2], self.value)], 1)


class MaskedByFill(Net):
    def forward(self, images: Tensor) -> Tensor:
        logits = nn.functional.pad(super().forward(images), (0, 2))
        return logits.masked_fill(torch.arange(6) > 3, -torch.inf)


MEMBERS: dict[str, Any] = {
    "apgd": APGD(threat=THREAT, steps=5),
    "dlr": APGD(threat=THREAT, steps=5, loss=dlr),
    "apgd-t": APGD(threat=THREAT, steps=5, loss=targeted_dlr, targets=3),
    "cw": CW(threat=THREAT, steps=3, step_size=0.02),
    "fab": FAB(threat=THREAT, steps=5, targets=5),
    "square": Square(threat=THREAT, queries=10),
}


@pytest.mark.parametrize("kind", [Masked, MaskedByFill])
def test_masked_classes_change_no_verdict(kind: type[nn.Module]) -> None:
    suite = custom(THREAT, MEMBERS)
    masked, plain = (
        lrat.evaluate(built(each), (IMAGES, LABELS), threat=THREAT, suite=suite)
        for each in (kind, Net)
    )
    for name, accuracy in plain.accuracy.items():
        assert masked.accuracy[name] == accuracy, name
    assert all(torch.tensor(masked.outcomes.margin).isfinite())


def test_with_fewer_than_three_classes_left_the_losses_are_margins() -> None:
    model = built(Masked)
    model.few = True
    labels = forward_logits(model, IMAGES).argmax(1)
    for attack in MEMBERS.values():
        adversarial = attack(model, IMAGES, labels, noise=0).images
        assert adversarial.isfinite().all()
    moved = MEMBERS["dlr"](model, IMAGES, labels, noise=0).images
    margins = [logit_margin(forward_logits(model, each), labels) for each in (moved, IMAGES)]
    assert (margins[0] < margins[1]).all()


@pytest.mark.parametrize("method", ["sat", "lrat-saa+cw", "trades"])
def test_masked_classes_change_no_training(method: str) -> None:
    weights = []
    for kind in (Masked, Net):
        model = built(kind)
        lrat.fit(model, (IMAGES, LABELS), threat=THREAT, method=method, epochs=1, validation=0)
        weights.append(model.get_parameter("head.weight"))
    torch.testing.assert_close(weights[0], weights[1])


def test_a_model_of_masked_classes_alone_is_refused() -> None:
    class Nothing(Net):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) - torch.inf

    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        CALLS["evaluate"](built(Nothing))


class Reseeding(Net):
    def forward(self, images: Tensor) -> Any:
        torch.manual_seed(0)
        np.random.seed(1)
        random.seed(2)
        return super().forward(images)


class Drawing(Net):
    def forward(self, images: Tensor) -> Any:
        noise = np.random.rand() + torch.randn_like(images)
        return super().forward(images + 0.3 * noise)


DIRECT: dict[str, Callable[[nn.Module], Any]] = {
    "pgd": lambda model: MEMBERS["apgd"](model, IMAGES, LABELS),
    "square": lambda model: MEMBERS["square"](model, IMAGES, LABELS),
    "accelerate": lambda model: lrat.accelerate(model, IMAGES),
}


def states() -> list[Any]:
    return [
        torch.random.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
    ]


@pytest.mark.parametrize("call", [*CALLS.values(), *DIRECT.values()], ids=[*CALLS, *DIRECT])
@pytest.mark.parametrize("kind", [Reseeding, Drawing])
def test_the_caller_s_random_states_are_as_before(
    kind: type[nn.Module], call: Callable[[nn.Module], Any]
) -> None:
    model = built(kind)
    before = states()
    call(model)
    # The checks of types in tests draw from Python's state too, when ``accelerate`` is called.
    positions = slice(2 if call is DIRECT["accelerate"] else 3)
    assert states()[positions] == before[positions]


def test_the_seed_decides_what_a_random_model_draws() -> None:
    def evaluated(seed: int) -> Any:
        return lrat.evaluate(
            built(Drawing), (IMAGES, LABELS), threat=THREAT, suite=SUITE, seed=seed
        ).outcomes.margin.tolist()

    first = evaluated(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        assert evaluated(0) == first
    assert evaluated(1) != first
