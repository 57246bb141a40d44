"""Eq. 10 by hand, and what is refused."""

import math

import pytest
import torch

from lrat.errors import SettingError
from lrat.weighting import Evidence, GeometryTanh, Uniform


def evidence(survived: list[int], max_steps: int) -> Evidence:
    return Evidence(
        logits=torch.zeros(len(survived), 3),
        labels=torch.zeros(len(survived), dtype=torch.int64),
        steps_survived=torch.tensor(survived),
        max_steps=max_steps,
    )


def test_eq_10_by_hand() -> None:
    """(1 + tanh(v)) / 2 = 1 / (1 + e^(-2v)), v = -1 + 5 (1 - kappa / 5) = 4 - kappa for K = 10."""
    weights = GeometryTanh(lambda_=-1.0)(evidence([0, 3, 4, 5, 6, 7], 10))
    expected = torch.tensor([0.999665, 0.880797, 0.5, 0.119203, 0.017986, 0.002473])
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=0)
    last = GeometryTanh(lambda_=-1.0)(evidence([10], 10)).item()
    assert last == pytest.approx(6.14e-6, rel=0.02)


def test_odd_number_of_steps_follows_the_formula() -> None:
    """K = 5, lambda = 0: kappa = 2 gives v = 1, kappa = 3 gives v = -1 (no floor of K / 2)."""
    weights = GeometryTanh(lambda_=0.0)(evidence([2, 3], 5))
    torch.testing.assert_close(weights, torch.tensor([0.880797, 0.119203]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refuses_a_lambda_that_is_no_number(value: float) -> None:
    with pytest.raises(SettingError, match="must be a finite number"):
        GeometryTanh(lambda_=value)


@pytest.mark.parametrize("missing", ["steps_survived", "max_steps"])
def test_refuses_evidence_without_steps(missing: str) -> None:
    parts = {"steps_survived": torch.tensor([1]), "max_steps": 10} | {missing: None}
    seen = Evidence(logits=torch.zeros(1, 3), labels=torch.tensor([0]), **parts)
    with pytest.raises(SettingError, match="use PGD or CW"):
        GeometryTanh()(seen)


def test_uniform_is_one() -> None:
    assert Uniform()(evidence([0, 5, 10], 10)).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("steps", [2, 3, 5, 10, 11])
def test_floored_is_the_authors_code(steps: int) -> None:
    """int(K / 2) on both sides, as in GAIRAT.py; the plain form prints as before."""
    survived = torch.arange(steps + 1)
    half = steps // 2
    expected = (1 + torch.tanh(-1.0 + 5 * (half - survived) / half)) / 2
    known = Evidence(
        logits=torch.zeros(steps + 1, 3),
        labels=torch.zeros(steps + 1, dtype=torch.long),
        steps_survived=survived,
        max_steps=steps,
    )
    torch.testing.assert_close(GeometryTanh(floored=True)(known), expected)
    same = torch.allclose(GeometryTanh()(known), expected)
    assert same == (steps % 2 == 0)
    assert repr(GeometryTanh()) == "GeometryTanh(lambda_=-1.0)"
    assert "floored=True" in repr(GeometryTanh(floored=True))


def test_floored_refuses_a_single_step() -> None:
    known = Evidence(
        logits=torch.zeros(1, 3),
        labels=torch.zeros(1, dtype=torch.long),
        steps_survived=torch.zeros(1, dtype=torch.long),
        max_steps=1,
    )
    with pytest.raises(SettingError, match="2 or more"):
        GeometryTanh(floored=True)(known)
