"""Eq. 7 and 15 by hand: values, gradients and records of a linear model with known numbers.

Weights are log(7, 2, 1) and log(1, 2, 1), so the image (1, 0) has probabilities (.7, .2, .1) and
(0, 1) has (.25, .5, .25); with label 0 their margins are t = .5 and t = -.25. MarginPower with
alpha 2 and beta 1 gives the weights 2 (1 - t) = 1 and 2.5; the image (0, 0) weighs 2.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from by_hand import eq7, margin_power
from lrat.attacks import PGD, Variant
from lrat.losses import cross_entropy
from lrat.objectives import ObjectiveOutput, Reweighted, Term
from lrat.threat import Linf
from lrat.weighting import MarginPower
from steps import as_images, batch_of, linear, step_of

WEIGHT = [[math.log(row[0]), math.log(row[1])] for row in ([7, 1], [2, 2], [1, 1])]
LABELS = [0, 0]
CLEAN = [[1.0, 1.0], [0.5, 0.0]]
A = [[1.0, 0.0], [0.0, 1.0]]
B = [[0.0, 1.0], [0.0, 0.0]]
LN2, LN3 = math.log(2), math.log(3)
CE_A = [-math.log(0.7), 2 * LN2]
CE_B = [2 * LN2, LN3]
CE_CLEAN = [math.log(12 / 7), math.log(1 + (1 + math.sqrt(2)) / math.sqrt(7))]
ATTACK = PGD(threat=Linf(epsilon=0.1), steps=1, step_size=0.1)


def score(
    objective: Reweighted,
    variants: dict[str, list[list[float]]],
    *,
    weight: list[list[float]] = WEIGHT,
    labels: list[int] = LABELS,
    clean: list[list[float]] = CLEAN,
) -> tuple[ObjectiveOutput, Tensor]:
    """The output and the gradient of its total, [K D]."""
    model = linear(weight)
    batch = batch_of(as_images(clean), torch.tensor(labels))
    attacked = {name: Variant(images=as_images(rows)) for name, rows in variants.items()}
    output = objective.loss(model, batch, attacked, step_of(batch))
    (gradient,) = torch.autograd.grad(output.total, list(model.parameters()))
    return output, gradient


def reweighted(names: str, *, alpha: float = 2.0, beta: float = 1.0, **settings: object):
    margin = MarginPower(alpha=alpha, beta=beta)
    terms = [Term(name=name, attack=ATTACK, weighting=margin) for name in names]
    return Reweighted(terms=terms, **settings)


def near(values: Tensor, expected: object) -> None:
    torch.testing.assert_close(values, torch.tensor(expected), atol=2e-5, rtol=1e-5)


def test_one_term_without_a_floor() -> None:
    output, gradient = score(reweighted("a"), {"a": A})
    near(output.total, 1 * 0.356675 + 2.5 * 1.386294)
    near(output.normalizer, 3.5)
    near(output.total / output.normalizer, 1.092117)
    # w (p - onehot) x: image 1 has x = (1, 0) and p = (.7, .2, .1), image 2 (0, 1), (.25, .5, .25).
    near(gradient, [[1 * -0.3, 2.5 * -0.75], [1 * 0.2, 2.5 * 0.5], [1 * 0.1, 2.5 * 0.25]])
    near(output.per_example["loss/a"], CE_A)
    near(output.per_example["weight/a"], [1.0, 2.5])
    near(output.per_example["share/a"], [2 / 3.5, 5 / 3.5])
    assert output.correct is not None
    assert output.correct.tolist() == [True, False]
    assert output.fallback == 0


def test_one_term_with_a_live_floor() -> None:
    """C = 2 lifts the first image's weight from 1 to 2 and leaves 2.5."""
    output, gradient = score(reweighted("a", min_weight=2.0), {"a": A})
    near(output.total, 2 * CE_A[0] + 2.5 * CE_A[1])
    near(output.normalizer, 4.5)
    near(gradient, [[2 * -0.3, 2.5 * -0.75], [2 * 0.2, 2.5 * 0.5], [2 * 0.1, 2.5 * 0.25]])
    near(output.per_example["weight/a"], [1.0, 2.5])
    near(output.per_example["share/a"], [4 / 4.5, 5 / 4.5])


def test_a_dead_floor_changes_nothing() -> None:
    without, gradient = score(reweighted("a"), {"a": A})
    dead, gradient_dead = score(reweighted("a", min_weight=0.9), {"a": A})
    assert torch.equal(dead.total, without.total)
    assert torch.equal(dead.normalizer, without.normalizer)
    assert torch.equal(gradient_dead, gradient)


def test_as_printed() -> None:
    output, gradient = score(reweighted("a", min_weight=2.0, normalization="none"), {"a": A})
    near(output.total / output.normalizer, (2 * CE_A[0] + 2.5 * CE_A[1]) / 2)
    near(output.normalizer, 2.0)
    near(gradient / 2, [[-0.3, -0.9375], [0.2, 0.625], [0.1, 0.3125]])


@pytest.mark.parametrize(
    ("anchor", "a", "b", "clean"),
    [
        (None, [1.5, 2.5], [2.5, 2.0], None),
        ("a", [1.5, 2.5], [2.5, 2.0], None),
        ("b", [1.0, 2.5], [3.0, 2.0], None),
        ("clean", [1.0, 2.5], [2.5, 2.0], [0.5, 0.0]),
    ],
)
def test_two_terms_with_a_floor_on_each_anchor(
    anchor: str | None, a: list[float], b: list[float], clean: list[float] | None
) -> None:
    """S = (3.5, 4.5), so C = 4 gives the floors (.5, 0) and the rows 4 and 4.5."""
    output, _ = score(reweighted("ab", min_weight=4.0, anchor=anchor), {"a": A, "b": B})
    # The clean image (1, 1) has probabilities (7, 4, 1) / 12.
    ce_clean = [math.log(12 / 7), 0.0]
    expected = zip((a, b, clean or [0, 0]), (CE_A, CE_B, ce_clean), strict=True)
    near(output.total, sum(w[i] * ce[i] for w, ce in expected for i in (0, 1)))
    near(output.normalizer, 8.5)
    near(output.per_example["weight/a"], [1.0, 2.5])
    near(output.per_example["weight/b"], [2.5, 2.0])
    near(output.per_example["share/a"], [value * 2 / 8.5 for value in a])
    near(output.per_example["share/b"], [value * 2 / 8.5 for value in b])
    assert ("share/clean" in output.per_example) is (clean is not None)
    if clean is not None:
        near(output.per_example["share/clean"], [value * 2 / 8.5 for value in clean])


def test_a_floor_on_an_attack_that_is_no_term() -> None:
    """B weighs (2.5, 2), so C = 3.5 gives the anchor's images A the floor (1, 1.5)."""
    objective = reweighted("b", min_weight=3.5, anchor=ATTACK)
    output, _ = score(objective, {"b": B, "anchor": A})
    near(output.total, 2.5 * CE_B[0] + 2 * CE_B[1] + 1 * CE_A[0] + 1.5 * CE_A[1])
    near(output.normalizer, 7.0)
    near(output.per_example["share/anchor"], [2 / 7, 3 / 7])
    assert "weight/anchor" not in output.per_example


def test_an_anchor_that_is_no_term_has_noise_of_its_own() -> None:
    start = PGD(threat=Linf(epsilon=0.1), steps=1, step_size=0.0)
    objective = Reweighted(
        terms=[Term(name="a", attack=start)], min_weight=2.0, anchor=start, share_rows=0
    )
    batch = batch_of(as_images(CLEAN), torch.tensor(LABELS))
    variants = objective.attack(linear(WEIGHT), batch, step_of(batch))
    assert list(variants) == ["a", "anchor"]
    assert not torch.equal(variants["a"].images, variants["anchor"].images)


def test_a_term_descends_a_loss_of_its_own() -> None:
    """Twice the cross-entropy in the term a; the floor on the clean image keeps the objective's."""

    def twice(logits: Tensor, labels: Tensor) -> Tensor:
        return 2 * cross_entropy(logits, labels)

    terms = [Term(name="a", attack=ATTACK, criterion=twice), Term(name="b", attack=ATTACK)]
    objective = Reweighted(terms=terms, min_weight=3.0, anchor="clean")
    output, _ = score(objective, {"a": A, "b": B})
    near(output.per_example["loss/a"], [2 * each for each in CE_A])
    near(output.per_example["loss/b"], CE_B)
    near(output.per_example["loss/clean"], CE_CLEAN)
    assert repr(terms[1]) == repr(Term(name="b", attack=ATTACK))
    assert "criterion=twice" in repr(terms[0])


def test_two_terms_under_instance_normalization() -> None:
    """Each row is divided by its sum: (1.5, 2.5) / 4 and (2.5, 2) / 4.5."""
    objective = reweighted("ab", min_weight=4.0, normalization="instance")
    output, _ = score(objective, {"a": A, "b": B})
    first = (1.5 * CE_A[0] + 2.5 * CE_B[0]) / 4
    second = (2.5 * CE_A[1] + 2.0 * CE_B[1]) / 4.5
    near(output.total / output.normalizer, (first + second) / 2)
    near(output.per_example["share/a"], [1.5 / 4, 2.5 / 4.5])
    near(output.per_example["share/b"], [2.5 / 4, 2.0 / 4.5])


OTHER_WEIGHT = [[0.9, -1.3, 0.4], [-0.2, 0.8, 1.1], [0.3, 0.1, -0.7], [-1.5, 0.6, 0.2]]
OTHER_LABELS = [0, 3, 1, 2, 1]
IMAGES = [
    [[0.1, 0.9, 0.3], [0.8, 0.2, 0.5], [0.4, 0.4, 0.0], [1.0, 0.7, 0.6], [0.3, 0.3, 0.9]],
    [[0.9, 0.0, 0.2], [0.1, 0.6, 0.7], [0.5, 0.1, 1.0], [0.2, 0.8, 0.4], [0.0, 0.5, 0.3]],
    [[0.5, 0.5, 0.5], [0.7, 0.1, 0.0], [0.2, 1.0, 0.8], [0.6, 0.3, 0.1], [0.9, 0.4, 0.2]],
]


@pytest.mark.parametrize(
    ("names", "normalization", "min_weight", "anchor", "beta"),
    [
        (names, normalization, min_weight, anchor, beta)
        for names, normalization, min_weight, beta in itertools.product(
            ("a", "ab"), ("batch", "instance", "none"), (0.0, 0.1, 3.0, 40.0), (0.5, 2.0)
        )
        for anchor in (None, *names, "clean")
        if min_weight or anchor is None
    ],
)
def test_every_setting_equals_plain_arithmetic(
    names: str, normalization: str, min_weight: float, anchor: str | None, beta: float
) -> None:
    """C = 0.1 is dead, 3 is live for some images, 40 for all."""
    variants = dict(zip(names, IMAGES, strict=False))
    objective = reweighted(
        names, beta=beta, min_weight=min_weight, normalization=normalization, anchor=anchor
    )
    output, gradient = score(
        objective, variants, weight=OTHER_WEIGHT, labels=OTHER_LABELS, clean=IMAGES[2]
    )
    expected = eq7(
        OTHER_WEIGHT,
        OTHER_LABELS,
        variants,
        IMAGES[2],
        margin_power(2.0, beta),
        min_weight=min_weight,
        normalization=normalization,
        anchor=anchor or names[0],
    )
    near(output.total, expected.total)
    near(output.normalizer, expected.normalizer)
    near(output.total / output.normalizer, expected.total / expected.normalizer)
    near(gradient / output.normalizer, [
        [value / expected.normalizer for value in row] for row in expected.gradient
    ])  # fmt: skip
    scale = len(OTHER_LABELS) / expected.normalizer
    shares = {key: part for key, part in output.per_example.items() if key.startswith("share/")}
    for key, part in shares.items():
        near(part, [value * scale for value in expected.coefficients[key.removeprefix("share/")]])
    if normalization != "none":
        near(torch.stack(list(shares.values())).sum(0).mean(), 1.0)
    assert not any(part.requires_grad for part in output.per_example.values())
    assert not output.normalizer.requires_grad
