"""Eq. 11 and 12 by hand, at the edges of floating point, and what is refused."""

import math

import pytest
import torch

from lrat.errors import SettingError
from lrat.losses import probability_margin
from lrat.weighting import Evidence, MarginPower

LOGITS = torch.tensor([[7.0, 2.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 1.0]]).log()
"""Softmax (.7, .2, .1), (.25, .5, .25) and thirds."""


def evidence(labels: list[int]) -> Evidence:
    return Evidence(logits=LOGITS, labels=torch.tensor(labels))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([0, 0, 0], [0.5, -0.25, 0.0]), ([1, 1, 1], [-0.5, 0.25, 0.0]), ([2, 2, 2], [-0.6, -0.25, 0])],
)
def test_eq_11_by_hand(labels: list[int], expected: list[float]) -> None:
    margins = probability_margin(LOGITS, torch.tensor(labels))
    torch.testing.assert_close(margins, torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [
        (2.0, 0.5, [1.414214, 2.236068, 2.0]),
        (2.0, 1.0, [1.0, 2.5, 2.0]),
        (4.0, 2.0, [1.0, 6.25, 4.0]),
        (0.25, 4.0, [0.015625, 0.610352, 0.25]),
    ],
)
def test_eq_12_by_hand(alpha: float, beta: float, expected: list[float]) -> None:
    weights = MarginPower(alpha=alpha, beta=beta)(evidence([0, 0, 0]))
    torch.testing.assert_close(weights, torch.tensor(expected), atol=1e-6, rtol=1e-6)


def test_defaults_are_the_papers() -> None:
    assert MarginPower() == MarginPower(alpha=2.0, beta=0.5)


def test_ends_of_the_scale() -> None:
    """0 where the model is certainly right, alpha * 2^beta where it is certainly wrong."""
    logits = torch.tensor([[1e4, 0.0, 0.0], [0.0, 1e4, 0.0]])
    weights = MarginPower(alpha=2.0, beta=0.5)(Evidence(logits=logits, labels=torch.tensor([0, 0])))
    torch.testing.assert_close(weights, torch.tensor([0.0, 2 * math.sqrt(2)]))


@pytest.mark.parametrize("beta", [0.25, 0.5, 1.5])
def test_margin_above_one_by_rounding_weighs_nothing(beta: float) -> None:
    weights = MarginPower(beta=beta).of_margin(torch.tensor([1 + 2**-23, 1.0, 1 - 2**-23]))
    assert weights[:2].tolist() == [0.0, 0.0]
    assert weights[2] > 0


@pytest.mark.parametrize("lead", [3.0, 12.0, 17.0, 20.0, 60.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_weights_of_sure_answers_do_not_cancel(lead: float, classes: int) -> None:
    """1 - t of logits that lead by so much is about K e^-lead, far below float32's step
    at 1."""
    logits = torch.zeros(1, classes)
    logits[0, 0] = lead
    other = math.exp(-lead) / (1 + (classes - 1) * math.exp(-lead))
    weights = MarginPower(alpha=2.0, beta=0.5)(Evidence(logits=logits, labels=torch.tensor([0])))
    assert weights.item() == pytest.approx(2 * math.sqrt(classes * other), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_refuses(name: str, value: float) -> None:
    with pytest.raises(SettingError, match=rf"^MarginPower\({name}=.*> 0.*$"):
        MarginPower(**{name: value})


def test_refuses_weights_that_overflow() -> None:
    """The largest weight is alpha * 2^beta; up to 2^100 it and sums over batches stay finite."""
    with pytest.raises(SettingError, match="overflow float32: lower beta"):
        MarginPower(alpha=4.0, beta=99.0)
    surely_wrong = Evidence(logits=torch.tensor([[0.0, 1e4]]), labels=torch.tensor([0]))
    assert MarginPower(alpha=4.0, beta=98.0)(surely_wrong).item() == 2.0**100
