"""Regions: one contract suite over the balls, then what each norm must do in particular."""

import math
from typing import Any

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lrat.config.catalogue import canonical_threat
from lrat.errors import SettingError
from lrat.evaluation.storage.records import ball_of
from lrat.evaluation.suites import describe_threat
from lrat.randomness import Keyed, keys
from lrat.threat import L2, Ball, Linf, Region, parse
from lrat.threat.norms import stored_threat
from lrat.threat.text import as_ball

BALLS = {
    "linf": Linf(epsilon=0.2),
    "linf-8/255": Linf(epsilon=8 / 255),
    "linf-1": Linf(epsilon=1.0),
    "l2": L2(epsilon=0.7),
    "l2-large": L2(epsilon=3.0),
}
each_ball = pytest.mark.parametrize("ball", BALLS.values(), ids=BALLS)
seeds = st.integers(0, 10_000)
some = settings(deadline=None, max_examples=25)


def norm(ball: Ball, offsets: Tensor) -> Tensor:
    return torch.linalg.vector_norm(offsets.flatten(1), ord=ball.norm.order, dim=1)


def dual_norm(ball: Ball, gradients: Tensor) -> Tensor:
    order = 1 / (1 - 1 / ball.norm.order)
    return torch.linalg.vector_norm(gradients.flatten(1), ord=order, dim=1)


@each_ball
def test_what_results_store_is_read_back(ball: Ball) -> None:
    text = stored_threat(describe_threat(ball))
    assert text is not None
    assert parse(text) == parse(ball.text) == ball


@pytest.mark.parametrize(
    "stored", ["", "Linf", "Box(epsilon=0.1)", "Linf(epsilon=a)", "Linf(epsilon=nan)", "L2 x"]
)
def test_other_stored_regions_are_no_ball(stored: str) -> None:
    assert ball_of(stored) is None


@pytest.mark.parametrize("text", ["linf:nan", "l2:nan", "l2:inf", "linf:1e999", "l2:31"])
def test_numbers_that_are_no_radius(text: str) -> None:
    with pytest.raises(SettingError, match="threat"):
        canonical_threat(text)


def drawn(seed: int, count: int = 6) -> tuple[Tensor, Tensor]:
    """Centers in the box, some pixels on its faces, and points in, near and far from it."""
    noise = Keyed(keys(seed, torch.arange(count)))
    shape = (count, 2, 4, 4)
    centers = (noise.uniform(shape, "centers") * 1.4 - 0.2).clamp(0, 1)
    scale = torch.logspace(-3, 1, count)[:, None, None, None]
    return centers, centers + scale * noise.normal(shape, "points")


@each_ball
@some
@given(seed=seeds)
def test_a_projection_lies_inside_and_stays(ball: Ball, seed: int) -> None:
    centers, points = drawn(seed)
    inside = ball.project(points, centers)
    assert ball.violation(inside, centers).max() <= ball.tolerance
    assert inside.min() >= 0
    assert inside.max() <= 1
    tolerance = 0 if isinstance(ball, Linf) else ball.tolerance
    again = ball.project(inside, centers)
    torch.testing.assert_close(again, inside, rtol=0, atol=tolerance)


@each_ball
@some
@given(seed=seeds)
def test_points_inside_are_left_alone(ball: Ball, seed: int) -> None:
    centers, _ = drawn(seed)
    inside = ball.sample(centers, Keyed(keys(seed + 1, torch.arange(len(centers)))))
    torch.testing.assert_close(ball.project(inside, centers), inside, rtol=0, atol=1e-6)
    torch.testing.assert_close(ball.project(centers, centers), centers, rtol=0, atol=0)


@some
@given(seed=seeds)
def test_no_feasible_point_is_nearer_than_the_linf_projection(seed: int) -> None:
    assert_nearest(BALLS["linf"], *drawn(seed), seed)


@some
@given(seed=seeds)
def test_no_feasible_point_is_nearer_than_the_l2_projection_away_from_the_box(seed: int) -> None:
    centers, points = drawn(seed)
    assert_nearest(L2(epsilon=0.4), torch.full_like(centers, 0.5), points, seed)


def assert_nearest(ball: Ball, centers: Tensor, points: Tensor, seed: int) -> None:
    projected = ball.project(points, centers)
    nearest = (projected - points).flatten(1).norm(dim=1)
    for other in range(10):
        noise = Keyed(keys(seed, torch.arange(len(centers)))).child(other)
        feasible = ball.sample(centers, noise)
        # Both sets are convex, so the way from the projection to a feasible point is feasible.
        for candidate in (feasible, torch.lerp(projected, feasible, 0.02)):
            assert ((candidate - points).flatten(1).norm(dim=1) >= nearest - 1e-5).all()


@each_ball
@some
@given(seed=seeds)
def test_starts_lie_inside(ball: Ball, seed: int) -> None:
    centers, _ = drawn(seed)
    noise = Keyed(keys(seed, torch.arange(len(centers))))
    for start in (ball.sample(centers, noise), ball.surface(centers, noise)):
        assert start.dtype is torch.float32
        assert ball.violation(start, centers).max() <= ball.tolerance
        assert (ball.distance(start, centers) > 0).all()


@pytest.mark.parametrize("ball", [Linf(epsilon=0.3), L2(epsilon=0.3)], ids=["linf", "l2"])
def test_a_surface_start_is_at_distance_epsilon_away_from_the_box(ball: Ball) -> None:
    centers = torch.full((20, 1, 4, 4), 0.5)
    start = ball.surface(centers, Keyed(keys(0, torch.arange(20))))
    torch.testing.assert_close(ball.distance(start, centers), torch.full((20,), 0.3))


@each_ball
@some
@given(seed=seeds, scale=st.sampled_from([1e-5, 1e-2, 1.0, 1e4]))
def test_ascend_has_norm_one_and_achieves_the_dual_norm(
    ball: Ball, seed: int, scale: float
) -> None:
    gradient = Keyed(keys(seed, torch.arange(5))).normal((5, 2, 4, 4), "gradient") * scale
    direction = ball.ascend(gradient)
    torch.testing.assert_close(norm(ball, direction), torch.ones(5), rtol=1e-5, atol=1e-6)
    gained = (direction * gradient).flatten(1).sum(1)
    torch.testing.assert_close(gained, dual_norm(ball, gradient), rtol=1e-4, atol=0)


@each_ball
def test_a_zero_gradient_moves_nothing(ball: Ball) -> None:
    zero = torch.zeros(2, 1, 3, 3)
    assert torch.equal(ball.ascend(zero), zero)


@each_ball
@some
@given(seed=seeds)
def test_violation_is_the_excess(ball: Ball, seed: int) -> None:
    centers, points = drawn(seed)
    expected = (norm(ball, points - centers) - ball.epsilon).clamp(min=0)
    box = torch.maximum(-points.flatten(1).amin(1), points.flatten(1).amax(1) - 1).clamp(min=0)
    torch.testing.assert_close(ball.violation(points, centers), torch.maximum(expected, box))
    torch.testing.assert_close(ball.distance(points, centers), norm(ball, points - centers))
    assert torch.equal(ball.violation(centers, centers), torch.zeros(len(centers)))


def test_violation_by_hand() -> None:
    center = torch.tensor([[[[0.5, 0.9]]]])
    image = torch.tensor([[[[0.8, 1.3]]]])
    assert Linf(epsilon=0.1).violation(image, center).item() == pytest.approx(0.3)
    assert Linf(epsilon=0.35).violation(image, center).item() == pytest.approx(0.3)  # the box
    assert L2(epsilon=0.1).violation(image, center).item() == pytest.approx(0.4)
    assert L2(epsilon=0.45).violation(image, center).item() == pytest.approx(0.3)  # the box
    below = torch.tensor([[[[0.5, -0.25]]]])
    assert L2(epsilon=30).violation(below, center).item() == pytest.approx(0.25)


def test_linf_samples_are_uniform_in_the_ball() -> None:
    centers = torch.full((400, 1, 5, 5), 0.5)
    start = Linf(epsilon=0.25).sample(centers, Keyed(keys(3, torch.arange(400))))
    coordinates = ((start - centers) / 0.25).flatten().numpy()
    assert scipy.stats.kstest(coordinates, "uniform", args=(-1, 2)).pvalue > 1e-4


def test_l2_samples_are_uniform_in_the_ball() -> None:
    """In d dimensions radius**d is uniform, and every direction is as likely as its opposite."""
    centers = torch.full((4000, 1, 2, 2), 0.5)
    start = L2(epsilon=0.25).sample(centers, Keyed(keys(3, torch.arange(4000))))
    offsets = (start - centers).flatten(1) / 0.25
    radius = offsets.norm(dim=1)
    assert scipy.stats.kstest((radius**4).numpy(), "uniform").pvalue > 1e-4
    directions = offsets / radius[:, None]
    assert directions.mean(0).abs().max() < 0.04
    # One squared coordinate of a uniform direction in 4 dimensions is Beta(1/2, 3/2).
    squared = directions[:, 0].square().numpy()
    assert scipy.stats.kstest(squared, "beta", args=(0.5, 1.5)).pvalue > 1e-4
    # The radius is drawn apart from the direction.
    assert torch.stack([radius, directions[:, 0].abs()]).corrcoef()[0, 1].abs() < 0.07


@pytest.mark.parametrize("kind", [Linf, L2])
def test_epsilon_zero_is_the_center_alone(kind: Any) -> None:
    centers, points = drawn(0)
    ball = kind(epsilon=0)
    noise = Keyed(keys(0, torch.arange(len(centers))))
    assert torch.equal(ball.project(points, centers), centers)
    assert torch.equal(ball.sample(centers, noise), centers)
    assert torch.equal(ball.surface(centers, noise), centers)


def test_epsilon_in_pixel_units_is_refused_with_the_cure() -> None:
    with pytest.raises(SettingError, match="8/255 was probably meant") as caught:
        Linf(epsilon=8)
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingError, match="128/255 was probably meant"):
        L2(epsilon=128)


@pytest.mark.parametrize("kind", [Linf, L2])
@pytest.mark.parametrize("epsilon", [-0.1, math.nan, math.inf])
def test_an_epsilon_that_is_no_size_is_refused(kind: Any, epsilon: float) -> None:
    with pytest.raises(SettingError, match=r"epsilon=.*: must be a finite number >= 0"):
        kind(epsilon=epsilon)


@each_ball
def test_balls_are_regions_and_print_as_their_configuration(ball: Ball) -> None:
    assert isinstance(ball, Ball)
    assert isinstance(ball, Region)
    assert f"epsilon={ball.epsilon}" in repr(ball)


@each_ball
def test_nothing_waits_for_the_device(ball: Ball) -> None:
    """Data-dependent operations raise under fake tensors."""
    with FakeTensorMode():
        noise = Keyed(keys(1, torch.arange(3)))
        center = torch.empty(3, 1, 4, 4)
        start = ball.project(ball.ascend(ball.surface(center, noise)), center)
        assert ball.violation(ball.sample(start, noise), center).shape == (3,)


def test_a_ball_that_lacks_something_is_refused_by_name() -> None:
    class Bare:
        tolerance, epsilon = 1e-6, 0.1
        distance = project = around = sample = surface = ascend = violation = lambda self: None

    with pytest.raises(SettingError, match="this ball lacks norm, text, which"):
        as_ball(Bare())
