"""Updates in bfloat16: what is computed in what, what comes out, and who is refused."""

import logging
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from builders import seeded
from lrat.attacks import PGD
from lrat.errors import SettingError
from lrat.objectives import Reweighted, Term
from lrat.outputs import logits_of
from lrat.threat import Linf
from lrat.training import precision
from lrat.training.precision import in_float32, mixed
from lrat.weighting import MarginPower
from training.toys import network, run

CPU = torch.device("cpu")


def images() -> Tensor:
    return torch.rand((6, 1, 8, 8), generator=torch.Generator().manual_seed(0))


def convolutional() -> nn.Sequential:
    return seeded(
        0,
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)
        ),
    )


def test_float32_is_the_model_itself() -> None:
    model = network()
    assert mixed(model, "float32", CPU) is model


def test_the_network_computes_in_bfloat16_and_all_else_in_float32() -> None:
    model = convolutional()
    names, seen = list(model.state_dict()), {}

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, inputs, output: seen.update({name: output.dtype})

    for name, module in model.named_children():
        module.register_forward_hook(note(name))
    scored = mixed(model, "bf16-mixed", CPU)
    logits = scored(images())
    assert seen["0"] == torch.bfloat16
    assert seen["4"] == torch.float32, "the layer that makes the logits"
    assert logits.dtype == torch.float32
    logits.square().sum().backward()
    for value in model.parameters():
        assert value.dtype == torch.float32
        assert value.grad is not None
        assert value.grad.dtype == torch.float32
    assert list(model.state_dict()) == names
    assert model[1].running_mean.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


def test_logits_and_gradients_are_near_those_of_float32() -> None:
    found = []
    for kind in ("float32", "bf16-mixed"):
        model = convolutional()
        logits = mixed(model, kind, CPU)(images())
        nn.functional.cross_entropy(logits, torch.arange(6) % 3).backward()
        found.append((logits.detach(), model[0].weight.grad))
    (logits, gradient), (low_logits, low_gradient) = found
    assert not torch.equal(logits, low_logits)
    torch.testing.assert_close(low_logits, logits, rtol=0.02, atol=0.02)
    assert torch.cosine_similarity(gradient.flatten(), low_gradient.flatten(), 0) > 0.999


Pair = namedtuple("Pair", ["logits", "features"])


@dataclass
class Answer:
    logits: Tensor
    label: str = "kept"


class Returning(nn.Module):
    """Returns its low-precision features and what ``wrap`` makes of them."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 4)
        self.wrap = wrap

    def forward(self, images: Tensor) -> Any:
        return self.wrap(self.layer(images.flatten(1)) * torch.ones(4, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda made: made,
        lambda made: (made, made[..., :1]),
        lambda made: [made],
        lambda made: {"logits": made, "count": 3},
        lambda made: Pair(made, made),
        Answer,
    ],
)
def test_whatever_form_the_output_has(wrap: Callable[[Tensor], Any]) -> None:
    model = seeded(0, lambda: Returning(wrap))
    output = mixed(model, "bf16-mixed", CPU)(images())
    assert type(output) is type(wrap(torch.ones(1)))
    logits = output if isinstance(output, Tensor) else None
    if isinstance(output, dict):
        logits = output["logits"]
        assert output["count"] == 3
    elif logits is None:
        logits = getattr(output, "logits", None)
        logits = output[0] if logits is None else logits
    assert logits is not None
    assert logits.dtype == torch.float32
    assert torch.equal(logits_of(output), logits)
    with torch.no_grad():
        torch.testing.assert_close(logits, logits_of(model(images())), rtol=0.05, atol=0.05)


def test_what_is_no_low_precision_is_left_alone() -> None:
    counted, exact = torch.arange(3), torch.ones(2, dtype=torch.float64)
    assert in_float32(counted) is counted
    assert in_float32(exact) is exact
    assert in_float32("text") == "text"


def test_an_exception_in_the_model_leaves_nothing_behind() -> None:
    model = nn.Sequential(nn.Flatten(), seeded(0, lambda: nn.Linear(64, 3)))
    scored = mixed(model, "bf16-mixed", CPU)
    with pytest.raises(RuntimeError):
        scored(torch.ones(2, 1, 7, 9))
    assert not torch.is_autocast_enabled("cpu")
    assert not model[1]._forward_hooks
    assert not model[1]._forward_pre_hooks
    assert model(images()).dtype == torch.float32
    assert scored(images()).dtype == torch.float32


def test_a_device_without_it_is_refused_in_one_line() -> None:
    said = r"^precision='bf16-mixed': meta does not compute in bfloat16 \([^\n]+\): use 'float32'"
    with pytest.raises(SettingError, match=said) as caught:
        mixed(network(), "bf16-mixed", torch.device("meta"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("emulated", [False, True])
def test_emulation_is_said(
    emulated: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda kind: not emulated)
    mixed(network(), "bf16-mixed", CPU)
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == emulated
    assert all("cpu computes bfloat16 by emulation" in line for line in told)


def test_a_run_in_bfloat16_trains_and_keeps_float32_weights() -> None:
    model, result = run(precision="bf16-mixed", epochs=4)
    plain, expected = run(epochs=4)
    assert {value.dtype for value in result.weights.values()} == {torch.float32, torch.int64}
    assert result.weights.keys() == expected.weights.keys()
    assert not torch.equal(model.state_dict()["1.weight"], plain.state_dict()["1.weight"])
    for ours, theirs in zip(result.records, expected.records, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=0.05)
        assert ours.passes == theirs.passes


def test_losses_and_weights_of_a_reweighted_objective_are_float32() -> None:
    attack = PGD(threat=Linf(epsilon=0.1), steps=2, step_size=0.05)
    term = Term(name="pgd", attack=attack, weighting=MarginPower(alpha=2.0, beta=0.5))
    kinds = set()

    class Noting(Reweighted):
        def loss(self, *arguments: Any) -> Any:
            output = super().loss(*arguments)
            kinds.update({output.total.dtype, output.normalizer.dtype})
            kinds.update(value.dtype for value in output.per_example.values())
            return output

    run(precision="bf16-mixed", epochs=1, objective=Noting(terms=[term], min_weight=0.1))
    assert kinds == {torch.float32}
