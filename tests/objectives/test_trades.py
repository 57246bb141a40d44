"""TRADES against plain arithmetic, its attack, and one-hot predictions."""

import math

import pytest
import torch
from torch import nn

from builders import random_images, seeded
from by_hand import Matrix, logits_of, softmax
from lrat.attacks import PGD, Variant
from lrat.attacks.pgd import starting_point
from lrat.errors import SettingError
from lrat.losses import kl
from lrat.methods import Simulated, trades
from lrat.objectives import Objective, Trades
from lrat.randomness import Keyed, keys
from lrat.threat import Linf
from steps import as_images, batch_of, linear, step_of

THREAT = Linf(epsilon=0.2)
WEIGHT = [[0.9, -1.3, 0.4], [-0.2, 0.8, 1.1], [0.3, 0.1, -0.7], [-1.5, 0.6, 0.2]]
LABELS = [0, 3, 1]
CLEAN = [[0.1, 0.9, 0.3], [0.8, 0.2, 0.5], [0.4, 0.4, 0.0]]
ADVERSARIAL = [[0.9, 0.0, 0.2], [0.1, 0.6, 0.7], [0.5, 0.1, 1.0]]


def by_hand(beta: float) -> tuple[float, list[list[float]]]:
    """The summed loss and its gradient: with p clean, q attacked and D = KL(p || q),
    dCE/dz = p - onehot, dD/dz = p (log p - log q - D) and dD/dz' = q - p."""
    total = 0.0
    gradient = [[0.0] * 3 for _ in WEIGHT]
    for clean, adversarial, label in zip(CLEAN, ADVERSARIAL, LABELS, strict=True):
        p, q = (softmax(logits_of(WEIGHT, image)) for image in (clean, adversarial))
        ratio = [math.log(a / b) for a, b in zip(p, q, strict=True)]
        divergence = sum(a * r for a, r in zip(p, ratio, strict=True))
        total += -math.log(p[label]) + beta * divergence
        for k in range(len(WEIGHT)):
            on_clean = p[k] - (k == label) + beta * p[k] * (ratio[k] - divergence)
            on_adversarial = beta * (q[k] - p[k])
            gradient[k] = [
                old + on_clean * a + on_adversarial * b
                for old, a, b in zip(gradient[k], clean, adversarial, strict=True)
            ]
    return total, gradient


def variants_of(rows: Matrix) -> dict[str, Variant]:
    return {"kl": Variant(images=as_images([list(row) for row in rows]))}


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_loss_and_gradient_by_hand(beta: float) -> None:
    model = linear(WEIGHT)
    batch = batch_of(as_images(CLEAN), torch.tensor(LABELS))
    objective = trades(Simulated(threat=THREAT), beta=beta)
    output = objective.loss(model, batch, variants_of(ADVERSARIAL), step_of(batch))
    (gradient,) = torch.autograd.grad(output.total, list(model.parameters()))
    total, expected = by_hand(beta)
    assert output.normalizer == 3
    torch.testing.assert_close(output.total.item(), total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    summed = output.per_example["loss/clean"] + beta * output.per_example["loss/kl"]
    torch.testing.assert_close(summed.sum(), output.total.detach())


def test_one_hot_predictions_stay_finite() -> None:
    """Where p or q rounds to one-hot, log 0 would appear in a careless divergence."""
    model = linear([[1e3, 0.0], [0.0, 1e3], [-1e3, -1e3]])
    images = as_images([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    batch = batch_of(images, torch.tensor([0, 0, 2]))
    adversarial = variants_of([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    output = trades(Simulated(threat=THREAT)).loss(model, batch, adversarial, step_of(batch))
    (gradient,) = torch.autograd.grad(output.total, list(model.parameters()))
    assert torch.isfinite(output.total)
    assert torch.isfinite(gradient).all()
    # CE: 0, 1000 and 2000; KL of the first row: log p_0 - log q_0 = 1000, of the others 0.
    torch.testing.assert_close(output.total.item(), 9000.0, rtol=1e-5, atol=0)


MODEL = seeded(1, lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(),
                                        nn.Linear(16, 5)))  # fmt: skip
BATCH = batch_of(
    random_images(16, 1, 6) * 0.8 + 0.1,
    torch.arange(16) % 5,
)


def test_attack_starts_a_hair_away_and_ascends_the_divergence() -> None:
    still = Simulated(threat=THREAT, steps=1, step_size=0.0)
    start = trades(still).attack(MODEL, BATCH, step_of(BATCH))["kl"].images
    offset = (start - BATCH.images).flatten()
    assert 0.0008 < offset.std() < 0.0012
    assert abs(offset.mean()) < 0.0002
    end = trades(Simulated(threat=THREAT)).attack(MODEL, BATCH, step_of(BATCH))["kl"].images
    with torch.no_grad():
        loss = kl.prepare(BATCH.labels, MODEL(BATCH.images))
        before, after = loss(MODEL(start)), loss(MODEL(end))
    assert (after > 10 * before).all()
    assert (THREAT.violation(end, BATCH.images) <= THREAT.tolerance).all()


@pytest.mark.parametrize("beta", [-1.0, math.nan, math.inf])
def test_refuses_beta(beta: float) -> None:
    attack = PGD(threat=THREAT, steps=1, step_size=0.1)
    with pytest.raises(SettingError, match="must be a finite number >= 0"):
        Trades(attack_with=attack, beta=beta)


def test_is_an_objective() -> None:
    assert isinstance(trades(Simulated(threat=THREAT)), Objective)


class Counting(nn.Module):
    """BatchNorm that counts the batches that it saw in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.flat = nn.BatchNorm2d(1), nn.Flatten()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.flat(self.norm(images))
        return logits


def test_the_authors_form_forwards_clean_images_twice_from_a_free_start() -> None:
    simulated = Simulated(threat=THREAT, steps=1, step_size=0.0)
    batch = batch_of(as_images([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]), torch.tensor([0, 1]))
    for authors, forwards in ((False, 2), (True, 3)):
        objective, model = trades(simulated, authors=authors), Counting()
        variants = objective.attack(model, batch, step_of(batch))
        assert variants["kl"].images.min() >= 0
        objective.loss(model.train(), batch, variants, step_of(batch))
        assert int(model.norm.num_batches_tracked or 0) == forwards
        assert ("clean_twice" in repr(objective)) == authors


def test_the_unprojected_start_is_x_plus_noise() -> None:
    noise = Keyed(keys(0, torch.arange(4)))
    images = torch.zeros(4, 1, 3, 3)
    free = starting_point("unprojected", THREAT, images, noise)
    assert free.min() < 0
    assert torch.equal(free.clamp(0, 1), starting_point("gaussian", THREAT, images, noise))
