"""Which parameters decay, and what the optimiser is given."""

import pytest
import torch
from torch import nn

from builders import seeded
from lrat.errors import ModelError
from lrat.models import ResNet18
from lrat.training import Optimisation
from lrat.training.optimisation import split_by_decay
from training.toys import network


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.LayerNorm([2, 2, 2])  # its weight has three dimensions
        self.scale = nn.Parameter(torch.ones(2))
        self.table = nn.ParameterDict({"bias": nn.Parameter(torch.ones(2, 2))})
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.tied = nn.Conv2d(1, 2, 3, bias=False)
        self.tied.weight = self.conv.weight


def names(model: nn.Module, values: list[nn.Parameter]) -> list[str]:
    return [name for name, value in model.named_parameters() if any(value is v for v in values)]


def test_normalisation_biases_and_vectors_do_not_decay() -> None:
    model = seeded(0, Mixture)
    decaying, others = split_by_decay(model)
    assert names(model, decaying) == ["conv.weight"]
    assert len(decaying) == 1
    assert names(model, others) == [
        "scale", "conv.bias", "norm.weight", "norm.bias", "table.bias",
    ]  # fmt: skip


def test_of_a_residual_network_convolutions_and_the_last_layer_decay() -> None:
    model = seeded(0, lambda: ResNet18(width=4))
    decaying, others = split_by_decay(model)
    assert all(value.ndim in {2, 4} for value in decaying)
    assert all(value.ndim == 1 for value in others)
    assert len(decaying) + len(others) == len(list(model.parameters()))


def step(decay: str, model: nn.Module) -> torch.optim.Optimizer:
    """One step without a gradient: what moves is decay alone."""
    settings = Optimisation(epochs=1, lr=0.5, momentum=0.0, weight_decay=0.1, decay=decay)
    optimizer = settings.optimizer(model)
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("decay", ["all", "weights"])
def test_the_optimiser_decays_what_it_should(decay: str) -> None:
    model, before = network(), network()
    step(decay, model)
    for (name, value), old in zip(model.named_parameters(), before.parameters(), strict=True):
        decays = decay == "all" or value.ndim == 2
        torch.testing.assert_close(value, old * (1 - 0.5 * 0.1) if decays else old, msg=name)


def test_checkpoints_of_decay_everywhere_keep_their_layout() -> None:
    model = network()
    optimizer = step("all", model)
    plain = torch.optim.SGD(network().parameters(), lr=0.5, momentum=0.0, weight_decay=0.1)
    plain.load_state_dict(optimizer.state_dict())
    (group,) = optimizer.param_groups
    assert all(a is b for a, b in zip(group["params"], model.parameters(), strict=True))


def test_a_model_of_normalisation_alone_can_be_trained() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(16))
    (group,) = Optimisation(epochs=1, decay="weights").optimizer(model).param_groups
    assert group["weight_decay"] == 0
    with pytest.raises(ModelError, match="requires a gradient"):
        Optimisation(epochs=1, decay="weights").optimizer(model.requires_grad_(False))
