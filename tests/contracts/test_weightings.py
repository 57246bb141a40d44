"""What every weighting promises: finite, >= 0, float32 [B], without a gradient, pure."""

import pytest
import torch
from torch import Tensor

from lrat.weighting import Evidence, GeometryTanh, MarginPower, Uniform, Weighting

WEIGHTINGS: list[Weighting] = [
    Uniform(),
    *(MarginPower(alpha=a, beta=b) for a in (0.25, 2.0, 4.0) for b in (0.25, 0.5, 1.5, 4.0)),
    GeometryTanh(),
    GeometryTanh(lambda_=0.0),
]

LABELS = torch.tensor([0, 1, 2, 0, 3])
LOGITS = {
    "ordinary": torch.tensor(
        [[2.0, 1, 0, -1], [0, 1, 5, 2], [1, 1, 1, 0.5], [-3, 4, 0, 1], [0.1, 0.2, 0.3, 9]]
    ),
    "surely right": torch.nn.functional.one_hot(LABELS, 4) * 1e4,
    "surely wrong": torch.nn.functional.one_hot(LABELS, 4) * -1e4,
    "equal": torch.full((5, 4), 3.0),
    "hugely equal": torch.full((5, 4), 1e4),
    "hugely negative": torch.full((5, 4), -1e4),
    "two classes": torch.tensor([[1.0, 2], [2, 1], [0, 0], [-9, 9], [1e4, -1e4]]),
    "bfloat16": torch.linspace(-30, 30, 20).reshape(5, 4).bfloat16(),
    "float64": torch.linspace(-3, 3, 20, dtype=torch.float64).reshape(5, 4),
}


def evidence(logits: Tensor) -> Evidence:
    return Evidence(
        logits=logits.requires_grad_(logits.is_floating_point()),
        labels=LABELS.clamp(max=logits.shape[1] - 1),
        steps_survived=torch.tensor([0, 1, 5, 9, 10]),
        max_steps=10,
    )


@pytest.mark.parametrize("kind", LOGITS)
@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
def test_contract(weighting: Weighting, kind: str) -> None:
    seen = evidence(LOGITS[kind].detach().clone())
    weights = weighting(seen)
    assert weights.shape == (5,)
    assert weights.dtype == torch.float32
    assert torch.isfinite(weights).all()
    assert (weights >= 0).all()
    assert not weights.requires_grad
    assert torch.equal(weights, weighting(seen))
    assert torch.equal(seen.logits.detach(), LOGITS[kind].detach())


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
def test_each_image_is_weighed_alone(weighting: Weighting) -> None:
    whole = weighting(evidence(LOGITS["ordinary"].clone()))
    for row in range(5):
        alone = Evidence(
            logits=LOGITS["ordinary"][row : row + 1],
            labels=LABELS[row : row + 1],
            steps_survived=torch.tensor([[0, 1, 5, 9, 10][row]]),
            max_steps=10,
        )
        assert torch.equal(weighting(alone), whole[row : row + 1])


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
def test_needs_names_fields_of_the_evidence(weighting: Weighting) -> None:
    assert isinstance(weighting, Weighting)
    assert weighting.needs <= set(Evidence.__dataclass_fields__)
    assert eval(repr(weighting)) == weighting  # noqa: S307 - printed as its own configuration
