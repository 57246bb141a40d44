"""What every method promises: pure attacks, finite losses and gradients, the same every time."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from builders import seeded
from lrat.methods import Simulated
from lrat.objectives import Objective
from lrat.threat import Linf
from recipes import in_catalogue
from steps import attack_and_score, batch_of, step_of
from trained import digits

THREAT = Linf(epsilon=0.2)
METHODS = in_catalogue(Simulated(threat=THREAT, steps=3, saa_steps=4))
COUNT = 24
ROWS = [(name, progress) for name in METHODS for progress in (0.0, 0.9)]
each_method = pytest.mark.parametrize(("name", "progress"), ROWS)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(54, 10),
    )


@pytest.fixture
def model() -> nn.Module:
    """In train mode, but for a frozen BatchNorm, as a user's model may have it."""
    model = nn.Sequential(seeded(5, lambda: nn.BatchNorm2d(1)).eval(), seeded(5, network))
    model[0].running_mean.fill_(0.3)
    return model


BATCH = batch_of(*(part[:COUNT] for part in digits()))


def state(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that an attack must leave alone."""
    return {
        "modes": [module.training for module in model.modules()],
        "tensors": {name: value.clone() for name, value in model.state_dict().items()},
        "requires_grad": [value.requires_grad for value in model.parameters()],
        "grads": [value.grad for value in model.parameters()],
    }


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    tensors, others = before.pop("tensors"), after.pop("tensors")
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert before == after


def global_randomness() -> tuple[Any, ...]:
    """Of torch and numpy; Python's own moves with the run-time type checks of the test suite."""
    numpy_state = np.random.get_state()
    return numpy_state[1].tolist(), numpy_state[2], torch.random.get_rng_state().tolist()


@each_method
def test_the_attack_phase_is_pure(name: str, progress: float, model: nn.Module) -> None:
    before, randomness = state(model), global_randomness()
    variants = METHODS[name].attack(model, BATCH, step_of(BATCH, progress=progress))
    assert_same_state(before, state(model))
    assert global_randomness() == randomness
    for variant in variants.values():
        assert variant.images.dtype == torch.float32
        assert not variant.images.requires_grad
        assert (THREAT.violation(variant.images, BATCH.images) <= THREAT.tolerance).all()
        moved = (variant.images - BATCH.images).abs().flatten(1).amax(1)
        assert (moved > 1e-4).all()


@each_method
def test_the_loss_phase(name: str, progress: float, model: nn.Module) -> None:
    randomness = global_randomness()
    modes = [module.training for module in model.modules()]
    output = attack_and_score(METHODS[name], model, BATCH, progress=progress)
    assert isinstance(METHODS[name], Objective)
    assert torch.isfinite(output.total)
    assert torch.isfinite(output.normalizer)
    assert output.normalizer > 0
    assert not output.normalizer.requires_grad
    assert output.per_example
    for part in output.per_example.values():
        assert part.shape == (COUNT,)
        assert part.dtype == torch.float32
        assert not part.requires_grad
        assert torch.isfinite(part).all()
        assert (part >= 0).all()
    assert output.correct is not None
    assert output.correct.shape == (COUNT,)
    assert output.correct.dtype == torch.bool
    assert [module.training for module in model.modules()] == modes
    assert global_randomness() == randomness


@each_method
def test_gradients_are_finite_and_reach_every_layer(
    name: str, progress: float, model: nn.Module
) -> None:
    output = attack_and_score(METHODS[name], model, BATCH, progress=progress)
    (output.total / output.normalizer).backward()
    for parameter in model[1].parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
    weights = [value for value in model[1].parameters() if value.dim() > 1]
    assert all(value.grad is not None and value.grad.abs().max() > 1e-4 for value in weights)


@each_method
def test_the_same_noise_gives_the_same_step(name: str, progress: float) -> None:
    def run() -> list[Tensor]:
        model = seeded(5, network)
        output = attack_and_score(METHODS[name], model, BATCH, progress=progress)
        records = [output.per_example[key] for key in sorted(output.per_example)]
        parameters = list(model.parameters())
        return [output.total, *records, *torch.autograd.grad(output.total, parameters)]

    assert all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "natural"])
def test_other_noise_gives_other_variants(name: str, model: nn.Module) -> None:
    one, other = (METHODS[name].attack(model, BATCH, step_of(BATCH, seed=seed)) for seed in (0, 1))
    assert list(one) == list(other)
    assert all(not torch.equal(one[term].images, other[term].images) for term in one)


@each_method
def test_records_explain_the_loss(name: str, progress: float, model: nn.Module) -> None:
    """sum of share * loss over terms, averaged over images, is the loss; shares have mean 1."""
    output = attack_and_score(METHODS[name], model, BATCH, progress=progress)
    records = output.per_example
    shares = [key.removeprefix("share/") for key in records if key.startswith("share/")]
    if not shares:  # TRADES' two losses are not shares of one weight
        assert set(records) == {"loss/clean", "loss/kl"}
        return
    explained = torch.stack([records[f"share/{t}"] * records[f"loss/{t}"] for t in shares]).sum(0)
    torch.testing.assert_close(explained.mean(), (output.total / output.normalizer).detach())
    rows = torch.stack([records[f"share/{term}"] for term in shares]).sum(0)
    torch.testing.assert_close(rows.mean(), torch.tensor(1.0))
