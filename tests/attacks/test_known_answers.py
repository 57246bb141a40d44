"""Linear models: the best attack is known in closed form, so a weak attack fails here."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks.stubs import linear
from lrat.attacks import APGD, CW, FGSM, PGD, SAA, Attack
from lrat.losses import cross_entropy, dlr, logit_margin, targeted_dlr
from lrat.randomness import Keyed, keys
from lrat.threat import L2, Ball, Linf

CLASSES, COUNT, SHAPE = 4, 24, (1, 4, 4)
LINF, EUCLIDEAN = Linf(epsilon=0.08), L2(epsilon=0.2)
each_ball = pytest.mark.parametrize("threat", [LINF, EUCLIDEAN], ids=["linf", "l2"])
Maker = Callable[[Ball], Attack]
EXACT: dict[str, Maker] = {
    "pgd": lambda threat: PGD(threat=threat, steps=40, step_size=threat.epsilon / 4),
    "cw": lambda threat: CW(threat=threat, steps=40, step_size=threat.epsilon / 4),
    "apgd-ce": lambda threat: APGD(threat=threat, steps=40),
    "apgd-dlr": lambda threat: APGD(threat=threat, steps=40, loss=dlr),
    "apgd-t": lambda threat: APGD(threat=threat, steps=40, loss=targeted_dlr, targets=3),
    "saa": lambda threat: SAA(threat=threat, steps=40),
}


def problem(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Images in the middle of the box, labelled as the model sees them."""
    images = 0.35 + 0.3 * Keyed(keys(0, torch.arange(COUNT))).uniform((COUNT, *SHAPE), "images")
    with torch.no_grad():
        return images, model(images).argmax(1)


def margins(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return logit_margin(model(images), labels)


def optimum(model: Any, images: Tensor, labels: Tensor, threat: Ball) -> Tensor:
    """min over targets t of z_y - z_t - epsilon * |w_y - w_t| in the dual norm, away from the box.

    Linf's dual norm is the sum of absolute values, L2's is L2.
    """
    weights, order = model[1].weight.detach(), 1 if isinstance(threat, Linf) else 2
    with torch.no_grad():
        logits = model(images)
    differences = weights[labels][:, None] - weights[None]
    falls = threat.epsilon * torch.linalg.vector_norm(differences, ord=order, dim=2)
    per_target = logits.gather(1, labels[:, None]) - logits - falls
    return per_target.scatter(1, labels[:, None], torch.inf).amin(1)


@each_ball
@pytest.mark.parametrize("name", EXACT)
def test_two_classes_reach_the_optimum(name: str, threat: Ball) -> None:
    """The margin falls by exactly epsilon * |w_y - w_t|."""
    model = linear(2)
    images, labels = problem(model)
    adversarial = EXACT[name](threat)(model, images, labels).images
    expected = optimum(model, images, labels, threat)
    fooled = expected < 0
    reached = margins(model, adversarial, labels)
    assert torch.equal(reached < 0, fooled)
    # Auto-PGD may stop at the latest misclassified iterate; what it cannot fool, it must exhaust.
    rows = torch.ones_like(fooled) if name in ("pgd", "cw", "saa") else ~fooled
    assert rows.any()
    torch.testing.assert_close(reached[rows], expected[rows], rtol=0, atol=2e-5)


@each_ball
@pytest.mark.parametrize("name", ["cw", "apgd-t", "saa"])
def test_attacks_on_the_margin_reach_the_optimum_of_several_classes(
    name: str, threat: Ball
) -> None:
    """CW moves to one of the targets and may stop at another than the best; SAA tries all."""
    model = linear(CLASSES)
    images, labels = problem(model)
    adversarial = EXACT[name](threat)(model, images, labels).images
    reached, expected = margins(model, adversarial, labels), optimum(model, images, labels, threat)
    assert 0 < (expected < 0).sum() < COUNT
    assert (reached >= expected - 1e-5).all()
    if name == "cw":
        assert ((reached < 0) == (expected < 0)).float().mean() >= 0.9
        assert (reached - expected).median() < 1e-5
    else:
        assert torch.equal(reached < 0, expected < 0)


@each_ball
def test_no_attack_beats_the_optimum(threat: Ball) -> None:
    model = linear(CLASSES)
    images, labels = problem(model)
    expected = optimum(model, images, labels, threat)
    for make in EXACT.values():
        adversarial = make(threat)(model, images, labels).images
        assert (margins(model, adversarial, labels) >= expected - 1e-5).all()


@each_ball
def test_fgsm_is_optimal_on_two_classes(threat: Ball) -> None:
    model = linear(2)
    images, labels = problem(model)
    adversarial = FGSM(threat=threat)(model, images, labels).images
    expected = optimum(model, images, labels, threat)
    torch.testing.assert_close(margins(model, adversarial, labels), expected, rtol=0, atol=2e-5)


@each_ball
@pytest.mark.parametrize("loss", ["cross_entropy", "cw"])
def test_more_steps_are_never_weaker(threat: Ball, loss: str) -> None:
    """From the clean image each step of epsilon / 10 lowers every margin by the same amount."""
    model = linear(2)
    images, labels = problem(model)
    pace = threat.epsilon / 10
    losses = {"cross_entropy": cross_entropy, "cw": CW(threat=threat, steps=1, step_size=1).loss}
    reached = []
    for steps in range(1, 15):
        attack = PGD(threat=threat, steps=steps, step_size=pace, loss=losses[loss], start="none")
        reached.append(margins(model, attack(model, images, labels).images, labels))
    falls = -torch.stack(reached).diff(dim=0)
    assert (falls[:9] > 0).all()
    torch.testing.assert_close(falls[:9], falls[:1].expand(9, -1), rtol=1e-3, atol=1e-5)
    assert falls[9:].abs().max() < 2e-5, "ten steps of epsilon / 10 reach the ball's surface"


@pytest.mark.parametrize("kind", [Linf, L2])
@pytest.mark.parametrize("name", EXACT)
def test_larger_balls_are_never_weaker(name: str, kind: Any) -> None:
    model = linear(CLASSES)
    images, labels = problem(model)
    wrong, falls = [], []
    for epsilon in (0.0, 0.02, 0.05, 0.1, 0.2):
        adversarial = EXACT[name](kind(epsilon=epsilon))(model, images, labels).images
        margin = margins(model, adversarial, labels)
        wrong.append(margin < 0)
        falls.append(margin)
    assert not wrong[0].any()
    assert wrong[-1].any()
    for smaller, larger in pairwise(wrong):
        assert (larger | ~smaller).all()
    for smaller, larger in pairwise(falls):
        stuck = larger >= 0
        assert (larger < smaller)[stuck].all()
