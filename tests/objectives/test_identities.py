"""What follows from Eq. 7 and 15: identities that hold for any numbers."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from builders import random_images, seeded
from lrat.attacks import PGD, Variant
from lrat.losses import cross_entropy, probability_margin
from lrat.methods import LocalSettings, Simulated, lrat, lsat, sat
from lrat.objectives import ObjectiveOutput, Reweighted, Term
from lrat.threat import Linf
from lrat.weighting import MarginPower, Uniform, Weighting
from steps import attack_and_score, batch_of, gradients, rows_of, step_of

THREAT = Linf(epsilon=0.2)
SIMULATED = Simulated(threat=THREAT, steps=3, saa_steps=4)
ATTACK = PGD(threat=THREAT, steps=1, step_size=0.1)


def network() -> nn.Module:
    """Without batch statistics, so that any split of a batch gives the same logits."""
    build = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5)]
    return nn.Sequential(*build)


class Sharp(nn.Module):
    """A model whose logits are larger, so that margins fill [-1, 1]."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * self.model(images)


MODEL = Sharp(seeded(3, network), 20.0)


def images_of(seed: int, count: int = 7) -> Tensor:
    return random_images(count, 1, 6, seed=seed)


BATCH = batch_of(images_of(0), torch.tensor([0, 1, 2, 3, 4, 0, 1]))
VARIANTS = {
    "a": Variant(images=images_of(1), steps_survived=torch.arange(7), max_steps=10),
    "b": Variant(images=images_of(2), steps_survived=torch.arange(7).flip(0), max_steps=10),
}


def score(names: str, weighting: Weighting, **settings: object) -> ObjectiveOutput:
    """Eq. 7 on VARIANTS, the terms weighted alike."""
    terms = [Term(name=name, attack=ATTACK, weighting=weighting) for name in names]
    return Reweighted(terms=terms, **settings).loss(MODEL, BATCH, VARIANTS, step_of(BATCH))


def assert_same_objective(one: ObjectiveOutput, other: ObjectiveOutput) -> None:
    """Equal losses and equal gradients."""
    values = [output.total / output.normalizer for output in (one, other)]
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)
    pairs = zip(gradients(MODEL, values[0]), gradients(MODEL, values[1]), strict=True)
    for first, second in pairs:
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def losses(name: str) -> Tensor:
    return cross_entropy(MODEL(VARIANTS[name].images), BATCH.labels).detach()


@pytest.mark.parametrize("floor", [0.3, 2.0, 2.5])
def test_floor_and_weights_sum_to_their_maximum(floor: float) -> None:
    """[C - S]_+ + S = max(C, S); with one term the floor at its variant clips the weight."""
    output = score("a", MarginPower(), min_weight=floor, normalization="none")
    weights = output.per_example["weight/a"]
    torch.testing.assert_close(output.per_example["share/a"], weights.clamp(min=floor))
    clipped = (weights.clamp(min=floor) * losses("a")).sum()
    torch.testing.assert_close(output.total.detach(), clipped)

    two = score("ab", MarginPower(), min_weight=2 * floor, normalization="none").per_example
    rows = two["share/a"] + two["share/b"]
    summed = two["weight/a"] + two["weight/b"]
    torch.testing.assert_close(rows, summed.clamp(min=2 * floor))


@pytest.mark.parametrize("floor", [0.0, 0.01])
@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_shared_alpha_cancels_under_a_dead_floor(names: str, floor: float) -> None:
    for alpha in (0.5, 7.0):
        assert_same_objective(
            score(names, MarginPower(alpha=alpha), min_weight=floor),
            score(names, MarginPower(alpha=2.0), min_weight=floor),
        )


def test_only_the_ratio_of_floor_and_alpha_acts() -> None:
    assert_same_objective(
        score("ab", MarginPower(alpha=2.0), min_weight=4.2),
        score("ab", MarginPower(alpha=5.0), min_weight=10.5),
    )
    live = score("ab", MarginPower(alpha=2.0), min_weight=4.2)
    dead = score("ab", MarginPower(alpha=5.0), min_weight=4.2)
    assert (live.total / live.normalizer - dead.total / dead.normalizer).abs() > 1e-4


@pytest.mark.parametrize("floor", [0.0, 2.0])
@pytest.mark.parametrize("beta", [0.5, 8.0])
def test_instance_normalization_of_one_term_is_lsat(beta: float, floor: float) -> None:
    local = score("a", MarginPower(beta=beta), min_weight=floor, normalization="instance")
    assert_same_objective(local, score("a", Uniform()))


def test_instance_normalization_tends_to_the_average_for_small_beta() -> None:
    local = score("ab", MarginPower(beta=1e-7), normalization="instance")
    average = (losses("a") + losses("b")).mean() / 2
    torch.testing.assert_close((local.total / local.normalizer).detach(), average)


def test_instance_normalization_tends_to_the_worst_variant_for_large_beta() -> None:
    """Worst by the margin of Eq. 11, image by image."""
    local = score("ab", MarginPower(beta=98.0), normalization="instance")
    margins = [
        probability_margin(MODEL(VARIANTS[name].images), BATCH.labels).detach() for name in "ab"
    ]
    a_is_worse = margins[0] < margins[1]
    assert 0 < a_is_worse.sum() < len(BATCH)
    worst = torch.where(a_is_worse, losses("a"), losses("b")).mean()
    loss = (local.total / local.normalizer).detach()
    torch.testing.assert_close(loss, worst, rtol=1e-3, atol=0)
    assert (torch.stack([losses("a"), losses("b")]).mean() - worst).abs() > 0.01 * worst


def test_sat_is_cross_entropy_on_the_pgd_images() -> None:
    step = step_of(BATCH)
    output = attack_and_score(sat(SIMULATED), MODEL, BATCH)
    attack = PGD(threat=THREAT, steps=3, step_size=THREAT.epsilon / 10)
    variant = attack(MODEL, BATCH.images, BATCH.labels, noise=step.noise.child("pgd"))
    mean = nn.functional.cross_entropy(MODEL(variant.images), BATCH.labels)
    torch.testing.assert_close(output.total / output.normalizer, mean)
    gradient = gradients(MODEL, output.total / output.normalizer)
    for one, other in zip(gradient, gradients(MODEL, mean), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("cuts", [(3,), (1,), (2, 5)])
@pytest.mark.parametrize(
    "objective",
    [
        lsat(SIMULATED),
        lrat(SIMULATED),
        lrat(SIMULATED, settings=LocalSettings(min_weight=3.9)),
        lrat(SIMULATED, settings=LocalSettings(min_weight=3.9, anchor="clean")),
        lrat(SIMULATED, settings=LocalSettings(normalization="instance")),
        lrat(SIMULATED, settings=LocalSettings(normalization="none")),
    ],
    ids=["lsat", "batch", "floor", "clean", "instance", "none"],
)
def test_any_split_of_the_batch_sums_to_the_whole(
    objective: Reweighted, cuts: tuple[int, ...]
) -> None:
    """Eq. 15 over the whole batch: totals, gradients and normalizers add up over micro-batches."""
    whole = attack_and_score(objective, MODEL, BATCH)
    edges = [0, *cuts, len(BATCH)]
    parts = [rows_of(BATCH, slice(*pair)) for pair in itertools.pairwise(edges)]
    outputs = [attack_and_score(objective, MODEL, part) for part in parts]
    split = ObjectiveOutput(
        total=torch.stack([output.total for output in outputs]).sum(),
        normalizer=torch.stack([output.normalizer for output in outputs]).sum(),
        per_example={},
    )
    assert_same_objective(split, whole)
    torch.testing.assert_close(split.normalizer, whole.normalizer)
