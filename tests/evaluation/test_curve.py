"""Security curves: closed forms on linear models, and what must not change them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from builders import seeded
from lrat.attacks import PGD, Attack, as_attack
from lrat.errors import DataError, RegionViolationError, SettingError
from lrat.evaluation import quick
from lrat.evaluation.curve import CurveProgress, security_curve
from lrat.evaluation.curve_result import Brackets, Curve
from lrat.evaluation.evaluate import evaluate_suite
from lrat.losses import cw
from lrat.threat import L2, Ball, Linf
from lrat.types import Batch
from trained import THREAT, digits, held_out, trained

LEVELS = 32


class Linear(nn.Module):
    """Two classes: logits (w.x + b, 0), so that the smallest epsilon has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12) / 4)

    def forward(self, images: Tensor) -> Tensor:
        score = (images.flatten(1) - 0.5) @ self.weight
        return torch.stack([score, torch.zeros_like(score)], 1)


def batch(images: Tensor, labels: Tensor, start: int = 0) -> Batch:
    return Batch(images=images, labels=labels, index=torch.arange(start, start + len(labels)))


def linear_case() -> tuple[nn.Module, Batch, Tensor]:
    """A linear model, images far from the box's walls, and their scores w.(x - 1/2)."""
    model = seeded(3, Linear)
    images = seeded(4, lambda: 0.5 + 0.2 * (torch.rand(40, 1, 3, 4) - 0.5))
    with torch.no_grad():
        score = model(images)[:, 0]
    # The last five are wrong when clean.
    labels = (score <= 0).long()
    labels[-5:] = 1 - labels[-5:]
    return model, batch(images, labels), score


def sign_step(ball: Ball) -> Attack:
    return PGD(threat=ball, steps=3, step_size=ball.epsilon, loss=cw, start="none")


def pgd(ball: Ball) -> Attack:
    return PGD(threat=ball, steps=5, step_size=ball.epsilon / 4)


def split(whole: Batch, size: int) -> list[Batch]:
    return [
        Batch(
            images=whole.images[at : at + size],
            labels=whole.labels[at : at + size],
            index=whole.index[at : at + size],
        )
        for at in range(0, len(whole), size)
    ]


@pytest.mark.parametrize(("ball", "dual"), [(Linf(epsilon=0.03), 1), (L2(epsilon=0.07), 2)])
def test_on_a_linear_model_it_is_the_margin_over_the_dual_norm(ball: Ball, dual: int) -> None:
    model, whole, score = linear_case()
    curve = security_curve(model, [whole], sign_step, ball, levels=LEVELS)
    norm = torch.linalg.vector_norm(next(model.parameters()).detach(), dual)
    exact = (score.abs() / norm).double().numpy()
    exact[-5:] = 0
    step = ball.epsilon / LEVELS
    seen = exact <= ball.epsilon - 1e-5
    assert 5 < seen.sum() < 40, "some are fooled, some are not"
    np.testing.assert_array_equal(np.isinf(curve.smallest), ~seen)
    assert (curve.smallest[seen] >= exact[seen] - 1e-5).all()
    assert (curve.smallest[seen] <= exact[seen] + step + 1e-5).all()
    restricted = np.minimum(exact, ball.epsilon)
    assert curve.mean_epsilon == pytest.approx(restricted.mean(), abs=step / 2)
    assert curve.area == pytest.approx(restricted.mean() / ball.epsilon, abs=0.5 / LEVELS)
    assert curve.censored.value == pytest.approx(1 - seen.mean())
    for epsilon, share in zip(curve.epsilons, curve.accuracy, strict=True):
        assert share.value == (curve.smallest > epsilon).mean()


def test_it_falls_from_natural_accuracy_and_its_ends_agree_with_an_evaluation() -> None:
    model = trained("dense")
    images, labels = (part[1400:1460] for part in digits())
    whole = batch(images, labels)

    def cw_attack(ball: Ball) -> Attack:
        return quick(ball).members[1].attack

    curve = security_curve(
        model, [whole], cw_attack, THREAT, max_epsilon=0.4, levels=8, name="cw-20"
    )
    values = [share.value for share in curve.accuracy]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]
    for level in (4, 8):
        ball = Linf(epsilon=0.4 * level / 8)
        result = evaluate_suite(model, [whole], quick(ball))
        assert result.accuracy["natural"] == curve.accuracy[0]
        assert result.accuracy["cw-20"] == curve.accuracy[level]


def test_batches_and_the_other_images_change_nothing() -> None:
    model = trained("dense")
    images, labels = held_out(model, 30)
    whole = batch(images, labels)
    curves = [
        security_curve(model, split(whole, size), pgd, THREAT, levels=8) for size in (30, 7, 1)
    ]
    last = Batch(images=images[20:], labels=labels[20:], index=whole.index[20:])
    alone = security_curve(model, [last], pgd, THREAT, levels=8)
    for other in curves[1:]:
        np.testing.assert_array_equal(other.brackets.high, curves[0].brackets.high)
    np.testing.assert_array_equal(alone.brackets.high, curves[0].brackets.high[20:])


def test_images_are_attacked_about_log2_times_and_together() -> None:
    model = trained("dense")
    images, labels = held_out(model, 30)
    seen: list[CurveProgress] = []
    curve = security_curve(
        model, [batch(images, labels)], pgd, THREAT, levels=15, on_progress=seen.append
    )
    assert seen[0].attacked == 30
    assert sum(step.attacked for step in seen) <= 4 * 30
    assert len({step.epsilon for step in seen}) == len(seen), "each epsilon was visited once"
    left = [step.brackets.attacks_left for step in seen]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0
    np.testing.assert_array_equal(seen[-1].brackets.high, curve.brackets.high)


def test_a_smaller_perturbation_than_allowed_shortens_the_search() -> None:
    model, whole, _ = linear_case()
    weight = next(model.parameters()).detach()

    def nearest(ball: Ball) -> Attack:
        """The minimal perturbation, whatever the ball, as FAB looks for."""

        def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            margin = ((images.flatten(1) - 0.5) @ weight) / weight.abs().sum()
            size = 1.0001 * margin.abs()[:, None].clamp(max=ball.epsilon)
            moved = images.flatten(1) - margin.sign()[:, None] * size * weight.sign()
            return moved.view_as(images)

        return as_attack(attack)

    ball = Linf(epsilon=0.2, tolerance=1e-4)
    seen: list[CurveProgress] = []
    curve = security_curve(model, [whole], nearest, ball, levels=64, on_progress=seen.append)
    plain = security_curve(model, [whole], sign_step, ball, levels=64)
    np.testing.assert_array_equal(curve.brackets.high, plain.brackets.high)
    assert len(seen) < 64
    fooled_once = [step for step in seen if step.attacked > len(whole) // 2]
    assert fooled_once, "the first visits take all images"


def test_it_goes_on_from_what_is_known() -> None:
    model = trained("dense")
    images, labels = held_out(model, 20)
    whole = batch(images, labels)
    steps: list[CurveProgress] = []
    curve = security_curve(model, [whole], pgd, THREAT, levels=8, on_progress=steps.append)

    calls: list[int] = []

    def counting(ball: Ball) -> Attack:
        inner = pgd(ball)

        def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            calls.append(len(images))
            return inner(model, images, labels, noise=0).images

        return as_attack(attack)

    security_curve(model, [whole], counting, THREAT, levels=8, known=steps[-1].brackets)
    assert calls == []
    again = security_curve(model, [whole], pgd, THREAT, levels=8, known=steps[1].brackets)
    np.testing.assert_array_equal(again.brackets.high, curve.brackets.high)
    with pytest.raises(DataError, match="other images or levels"):
        security_curve(model, split(whole, 10)[:1], pgd, THREAT, levels=8, known=curve.brackets)
    with pytest.raises(DataError, match="other images or levels"):
        security_curve(model, [whole], pgd, THREAT, levels=2, known=curve.brackets)


def test_a_curve_comes_back_from_what_is_stored() -> None:
    model, whole, _ = linear_case()
    curve = security_curve(model, [whole], sign_step, Linf(epsilon=0.1), levels=7, seed=3)
    back = Curve.from_dict(curve.as_dict(), curve.columns())
    assert back.as_dict() == curve.as_dict()
    assert str(back) == str(curve)
    for other in ({"levels": 10**12}, {"levels": 0, "epsilon": [0.0]}):
        with pytest.raises(DataError, match="lacks images or epsilons"):
            Curve.from_dict(curve.as_dict() | other, curve.columns())
    about = curve.as_dict()
    del about["levels"]
    with pytest.raises(DataError, match="lacks 'levels'"):
        Curve.from_dict(about, curve.columns())
    with pytest.raises(DataError, match="lack the columns high"):
        Brackets.from_columns({"index": [0], "label": [0], "low": [0]})
    with pytest.raises(DataError, match="length"):
        Brackets.from_columns({"index": [0], "label": [0], "low": [0], "high": [0, 1]})


def test_the_table_says_what_is_not_known() -> None:
    brackets = Brackets.from_columns(
        {"index": range(4), "label": [0] * 4, "low": [-1, 1, 4, 4], "high": [0, 2, 5, 5]}
    )
    curve = Curve(
        attack="pgd-20",
        settings="PGD(...)",
        norm="Linf",
        max_epsilon=0.2,
        levels=4,
        seed=0,
        brackets=brackets,
    )
    assert curve.smallest.tolist() == [0.0, 0.1, np.inf, np.inf]
    assert [share.value for share in curve.accuracy] == [0.75, 0.75, 0.5, 0.5, 0.5]
    assert curve.area == pytest.approx((0.75 + 0.75 + 0.5 + 0.5 + 0.5 - 0.625) / 4)
    text = str(curve)
    assert "mean at least 0.1188 (50.0 % withstand 0.2), median 0.1000" in text
    assert "pgd-20, Linf, n 4, seed 0, 4 steps of 0.05" in text
    far = replace(curve, brackets=replace(brackets, high=np.array([0, 5, 5, 5])))
    assert far.median_epsilon is None
    assert "median above 0.2" in str(far)


def _leaves(ball: Ball) -> Attack:
    return as_attack(lambda model, images, labels: images + 0.5)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"levels": 0}, SettingError, "levels=0"),
        ({"max_epsilon": 0.0}, SettingError, "max_epsilon=0.0"),
        ({"max_epsilon": float("nan")}, SettingError, "max_epsilon=nan"),
        ({"max_epsilon": 1.5}, SettingError, "epsilon"),
        ({"batches": []}, DataError, "no images"),
        ({"attack": _leaves}, RegionViolationError, "left Linf"),
    ],
)
def test_what_it_refuses(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    model, whole, _ = linear_case()
    arguments: dict[str, Any] = {"batches": [whole], "attack": sign_step, "max_epsilon": 0.1}
    arguments |= changed
    batches, attack = arguments.pop("batches"), arguments.pop("attack")
    with pytest.raises(error, match=message):
        security_curve(model, batches, attack, Linf(epsilon=0.1), **arguments)


def test_what_is_wrong_with_the_model_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    model, whole, _ = linear_case()
    for _ in range(2):
        caplog.clear()
        security_curve(nn.Sequential(model, nn.Softmax(1)), [whole], sign_step, Linf(epsilon=0.1))
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "probabilities" in caplog.text


def test_an_image_that_comes_twice_is_refused() -> None:
    model, whole, _ = linear_case()
    with pytest.raises(DataError, match="image 0 came twice"):
        security_curve(model, [whole, whole], sign_step, Linf(epsilon=0.1))


def test_the_view_is_attacked_and_the_model_decides() -> None:
    """Of a view without slopes: attacks through it point nowhere, so the model withstands more."""
    model = trained("dense")

    class Flat(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return model(images).detach() + 0 * images.sum()

    images, labels = held_out(model, 20)
    whole = batch(images, labels)
    through_flat = security_curve(model, [whole], pgd, THREAT, levels=8, view=Flat())
    direct = security_curve(model, [whole], pgd, THREAT, levels=8)
    assert through_flat.area > direct.area
    assert through_flat.accuracy[0].value == 1
