"""Bootstrap periods: which objective is in force at which epoch."""

import math

import pytest
import torch
from torch import nn

from builders import random_images, seeded
from lrat.attacks import PGD, Variant
from lrat.errors import SettingError
from lrat.methods import Simulated, gairat, gd, sat
from lrat.objectives import Objective, Reweighted, Term, phases
from lrat.threat import Linf
from steps import attack_and_score, batch_of, gradients, step_of

THREAT = Linf(epsilon=0.2)
SIMULATED = Simulated(threat=THREAT)
ATTACK = PGD(threat=THREAT, steps=1, step_size=0.1)
FIRST, SECOND, THIRD = (
    Reweighted(terms=[Term(name=name, attack=ATTACK)]) for name in ("first", "second", "third")
)


@pytest.mark.parametrize(
    ("epoch", "epochs", "begin"),
    [
        *((6, 20, 0.3), (30, 100, 0.3), (3, 10, 0.3), (9, 30, 0.3), (60, 100, 0.6)),
        *((36, 120, 0.3), (1, 3, 1 / 3), (7, 70, 0.1), (21, 70, 0.3)),
    ],
)
def test_a_phase_begins_at_its_epoch(epoch: int, epochs: int, begin: float) -> None:
    both = phases({0.0: FIRST, begin: SECOND})
    assert both.at((epoch - 1) / epochs) is FIRST
    assert both.at(epoch / epochs) is SECOND
    assert both.at((epochs - 1) / epochs) is SECOND
    assert both.at(1.0) is SECOND


def test_any_number_of_phases_in_any_order() -> None:
    three = phases({0.6: THIRD, 0.0: FIRST, 0.2: SECOND})
    objectives = [three.at(progress) for progress in (0.0, 0.1, 0.2, 0.5, 0.6, 0.9)]
    assert objectives == [FIRST, FIRST, SECOND, SECOND, THIRD, THIRD]


def test_both_phases_of_a_step_use_the_objective_in_force() -> None:
    both = phases({0.0: FIRST, 0.5: SECOND})
    assert isinstance(both, Objective)
    for progress, name in ((0.4, "first"), (0.5, "second")):
        output = attack_and_score(both, MODEL, BATCH, progress=progress)
        assert f"loss/{name}" in output.per_example


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ((), "the first must start at 0.0"),
        ((0.3,), "the first must start at 0.0"),
        ((-0.1, 0.0), ">= 0 and < 1"),
        ((0.0, 1.0), ">= 0 and < 1"),
        ((0.0, 30.0), ">= 0 and < 1"),
        ((0.0, math.nan), ">= 0 and < 1"),
    ],
)
def test_refuses(starts: tuple[float, ...], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        phases(dict.fromkeys(starts, FIRST))


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 5))


MODEL = seeded(1, network)
BATCH = batch_of(
    random_images(5, 1, 6),
    torch.tensor([0, 1, 2, 3, 4]),
)


def test_gairat_is_sat_before_it_begins() -> None:
    plain = attack_and_score(sat(SIMULATED), MODEL, BATCH)
    early = attack_and_score(gairat(SIMULATED), MODEL, BATCH, progress=0.29)
    assert torch.equal(early.total, plain.total)
    assert torch.equal(early.normalizer, plain.normalizer)
    pairs = zip(gradients(MODEL, early.total), gradients(MODEL, plain.total), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


SURVIVED = torch.tensor([0, 3, 4, 5, 10])
EQ_10 = torch.tensor([0.999665, 0.880797, 0.5, 0.119203, 0.000006])


def test_gairat_weighs_by_steps_survived_afterwards() -> None:
    """Eq. 4: weights of Eq. 10, normalised to mean 1."""
    variant = Variant(images=BATCH.images, steps_survived=SURVIVED, max_steps=10)
    objective = gairat(SIMULATED)
    output = objective.loss(MODEL, BATCH, {"pgd": variant}, step_of(BATCH, progress=0.3))
    torch.testing.assert_close(output.per_example["weight/pgd"], EQ_10, atol=1e-6, rtol=0)
    losses = nn.functional.cross_entropy(MODEL(BATCH.images), BATCH.labels, reduction="none")
    normalised = EQ_10 / EQ_10.mean()
    expected = (normalised * losses).mean()
    torch.testing.assert_close(output.total / output.normalizer, expected)
    torch.testing.assert_close(output.per_example["share/pgd"], normalised, atol=1e-5, rtol=1e-5)


def test_gairat_counts_the_steps_of_its_own_attack() -> None:
    output = attack_and_score(gairat(SIMULATED, "cw"), MODEL, BATCH, progress=0.5)
    variant = gairat(SIMULATED, "cw").attack(MODEL, BATCH, step_of(BATCH, progress=0.5))["cw"]
    assert variant.steps_survived is not None
    expected = torch.sigmoid(2 * (4.0 - variant.steps_survived))
    torch.testing.assert_close(output.per_example["weight/cw"], expected, atol=1e-6, rtol=0)


def test_table_2_rows_keep_their_margin_weights_in_both_phases() -> None:
    objective = gd(SIMULATED, ["saa", "cw"])
    early = attack_and_score(objective, MODEL, BATCH, progress=0.0).per_example
    late = attack_and_score(objective, MODEL, BATCH, progress=0.3).per_example
    assert early["weight/pgd"].tolist() == [1.0] * 5
    assert (late["weight/pgd"] != 1).all()
    for name in ("saa", "cw"):
        assert torch.equal(early[f"weight/{name}"], late[f"weight/{name}"])
        assert (early[f"weight/{name}"] != 1).all()
