"""The loss that objectives descend: bit-equal where it is cross-entropy, smoothed labels else."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from builders import random_images, seeded
from lrat import losses
from lrat.errors import SettingError
from lrat.methods import Simulated, lrat, natural, sat, smoothed, trades
from lrat.objectives import Phases, Reweighted, Term, Trades, with_criterion
from lrat.threat import Linf
from recipes import NAMES, recipes
from steps import batch_of, step_of

SIMULATED = Simulated(threat=Linf(epsilon=0.1), steps=2, saa_steps=2, saa_targets=1)
METHODS = recipes(SIMULATED)
TERM = Term(name="pgd", attack=SIMULATED.make("pgd"))
MODEL = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4)))
BATCH = batch_of(random_images(8, 1, 4), torch.arange(8) % 4)


def parts(method: Any) -> list[Any]:
    return [part for _, part in method.starts] if isinstance(method, Phases) else [method]


def scored(objective: Any) -> Any:
    step = step_of(BATCH)
    return objective.loss(MODEL, BATCH, objective.attack(MODEL, BATCH, step), step)


@pytest.mark.parametrize("name", NAMES)
def test_smoothing_reaches_every_method_and_none_of_its_attacks(name: str) -> None:
    method, other = METHODS[name], smoothed(METHODS[name], 0.2)
    assert other != method
    for before, after in zip(parts(method), parts(other), strict=True):
        assert after.criterion == losses.smoothed_cross_entropy(0.2)
        assert with_criterion(before, after.criterion) == after
        if isinstance(before, Trades):
            assert (after.attack_with, after.divergence) == (before.attack_with, before.divergence)
        else:
            assert after.terms == before.terms
    step = step_of(BATCH)
    for variant, again in zip(
        method.attack(MODEL, BATCH, step).values(),
        other.attack(MODEL, BATCH, step).values(),
        strict=True,
    ):
        assert torch.equal(variant.images, again.images)


@pytest.mark.parametrize("name", NAMES)
def test_off_it_is_the_method_itself_and_prints_as_it_did(name: str) -> None:
    method = METHODS[name]
    assert smoothed(method, 0.0) is method
    assert "criterion" not in repr(method)
    assert "criterion=smoothed_cross_entropy(0.1)" in repr(smoothed(method, 0.1))


@pytest.mark.parametrize("method", [sat(SIMULATED), lrat(SIMULATED), natural()])
def test_the_smoothed_loss_of_each_term(method: Reweighted) -> None:
    """Against PyTorch's; the weights of Eq. 12 look at logits alone and stay what they were."""
    step = step_of(BATCH)
    variants = method.attack(MODEL, BATCH, step)
    plain = method.loss(MODEL, BATCH, variants, step)
    output = smoothed(method, 0.3).loss(MODEL, BATCH, variants, step)
    images = {name: variant.images for name, variant in variants.items()} or {"clean": BATCH.images}
    total = torch.zeros(())
    for name, adversarial in images.items():
        expected = F.cross_entropy(
            MODEL(adversarial), BATCH.labels, reduction="none", label_smoothing=0.3
        ).detach()
        torch.testing.assert_close(output.per_example[f"loss/{name}"], expected)
        share = output.per_example[f"share/{name}"]
        assert torch.equal(share, plain.per_example[f"share/{name}"])
        total = total + (share * expected).mean()
    assert torch.equal(output.normalizer, plain.normalizer)
    torch.testing.assert_close((output.total / output.normalizer).detach(), total)


def test_of_trades_the_natural_term_is_smoothed() -> None:
    method = trades(SIMULATED, beta=2.0)
    plain, output = scored(method), scored(smoothed(method, 0.3))
    expected = F.cross_entropy(
        MODEL(BATCH.images), BATCH.labels, reduction="none", label_smoothing=0.3
    )
    torch.testing.assert_close(output.per_example["loss/clean"], expected.detach())
    assert torch.equal(output.per_example["loss/kl"], plain.per_example["loss/kl"])
    torch.testing.assert_close(
        output.total, expected.sum() + 2 * plain.per_example["loss/kl"].sum()
    )


def doubled(logits: Tensor, labels: Tensor) -> Tensor:
    return 2 * F.cross_entropy(logits, labels, reduction="none")


def test_a_function_of_ones_own() -> None:
    method = with_criterion(sat(SIMULATED), doubled)
    assert scored(method).total == 2 * scored(sat(SIMULATED)).total
    assert "criterion=doubled" in repr(method)


@dataclass(frozen=True)
class Custom:
    """A user's objective without a criterion."""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: smoothed(Custom(), 0.1), "^Custom has no criterion"),
        (lambda: smoothed(with_criterion(natural(), doubled), 0.1), "has the criterion doubled"),
        (
            lambda: smoothed(Reweighted(terms=[replace(TERM, criterion=doubled)]), 0.1),
            "has the criterion doubled",
        ),
        (lambda: replace(TERM, criterion=losses.kl), "^criterion=kl: training descends"),
        (lambda: Reweighted(terms=[], criterion=losses.kl), "^criterion=kl: training descends"),
        (lambda: with_criterion(trades(SIMULATED), losses.targeted_dlr), "^criterion=targeted_dlr"),
        (lambda: smoothed(natural(), 1.0), r"^label_smoothing=1.0: [^\n]* must lie in \[0, 1\)"),
        (lambda: smoothed(natural(), -0.1), "^label_smoothing=-0.1: "),
        (lambda: smoothed(natural(), float("nan")), "^label_smoothing=nan: "),
    ],
)
def test_refuses_in_one_line(change: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said) as caught:
        change()
    assert "\n" not in str(caught.value)
