"""The smallest step onto a hyperplane inside the box: known answers, the reference, hard cases."""

import pytest
import torch
from pyautoattack.fab_projections import projection_l2, projection_linf
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from builders import seeded
from lrat.attacks.fab import steps_onto
from lrat.errors import SettingError
from lrat.threat import L2, Ball, Linf
from lrat.threat.norms import NORMS

LINF, EUCLIDEAN = Linf(epsilon=0.1), L2(epsilon=1.0)
each_ball = pytest.mark.parametrize("threat", [LINF, EUCLIDEAN], ids=["linf", "l2"])
COUNT = 200


def reference(threat: Ball, points: Tensor, normal: Tensor, offset: Tensor) -> Tensor:
    project = projection_linf if threat is LINF else projection_l2
    values = (points * normal[:, None]).sum(2) - offset
    steps = [project(points[:, k], normal, values[:, k]) for k in range(points.shape[1])]
    return torch.stack(steps, dim=1)


def norm(threat: Ball, steps: Tensor) -> Tensor:
    order = torch.inf if threat is LINF else 2
    return torch.linalg.vector_norm(steps.double(), ord=order, dim=2)


def reach(points: Tensor, normal: Tensor, offset: Tensor) -> Tensor:
    """[B P]: by how much <w, x> can change towards the hyperplane inside the box."""
    wide = normal.double()[:, None]
    towards = -offset.sign()[..., None] * wide
    return torch.where(towards > 0, towards * (1 - points), towards * -points).sum(2).abs()


def remains(points: Tensor, normal: Tensor, offset: Tensor, steps: Tensor) -> Tensor:
    """[B P]: what is left of the way, as a share of the way that the box allows."""
    way = torch.minimum(offset.double().abs(), reach(points, normal, offset))
    gone = -offset.sign() * (normal.double()[:, None] * steps.double()).sum(2)
    return (way - gone).abs() / way.clamp(min=1e-12)


def normals(kind: str, dimension: int) -> Tensor:
    drawn = torch.randn(COUNT, dimension)
    if kind == "heavy":
        return drawn * (3 * torch.randn(COUNT, dimension)).exp()
    if kind == "sparse":
        return drawn * (torch.rand(COUNT, dimension) < 0.1)
    if kind == "small":
        return drawn * 1e-3
    return drawn


def images(kind: str, dimension: int) -> Tensor:
    drawn = torch.rand(COUNT, 2, dimension)
    if kind == "binary":
        return drawn.round()
    if kind == "mostly black":
        return drawn * (torch.rand(COUNT, 2, dimension) < 0.3)
    if kind == "near the box":
        edge = 10 ** (-6 * drawn)
        return torch.where(torch.rand_like(drawn) < 0.5, edge, 1 - edge)
    return drawn


def problem(normal: str, image: str, share: float, dimension: int = 60):
    """Points and hyperplanes at a share of the way that the box allows; above 1: out of reach."""

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        points, weights = images(image, dimension), normals(normal, dimension)
        side = torch.randn(COUNT, 2).sign()
        return points, weights, (share * side * reach(points, weights, side)).float()

    return seeded(0, draw)


@each_ball
@pytest.mark.parametrize("share", [0.01, 0.3, 0.8, 1.5])
@pytest.mark.parametrize("image", ["uniform", "binary", "mostly black"])
@pytest.mark.parametrize("normal", ["normal", "sparse", "small"])
def test_as_long_as_the_reference_s_and_on_the_hyperplane(
    normal: str, image: str, share: float, threat: Ball
) -> None:
    points, weights, offset = problem(normal, image, share)
    steps, lengths = steps_onto(threat)(points, weights, offset)
    expected = reference(threat, points, weights, offset)
    assert remains(points, weights, offset, steps).max() < 2e-5
    torch.testing.assert_close(lengths.double(), norm(threat, steps), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(lengths.double(), norm(threat, expected), rtol=2e-4, atol=1e-6)
    moved = points + steps
    assert -1e-7 <= moved.min() <= moved.max() <= 1 + 1e-7
    if share < 1:
        torch.testing.assert_close(steps, expected, rtol=2e-3, atol=2e-5)


@each_ball
@pytest.mark.parametrize("dimension", [60, 784, 3072])
@pytest.mark.parametrize("image", ["uniform", "near the box", "mostly black"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_hard_hyperplanes_are_missed_by_little(
    share: float, image: str, dimension: int, threat: Ball
) -> None:
    """Weights and room over many orders of magnitude, nearly all room used up."""
    points, weights, offset = problem("heavy", image, share, dimension)
    steps, _ = steps_onto(threat)(points, weights, offset)
    left = remains(points, weights, offset, steps)
    assert left.max() < 0.01
    assert left.median() < 1e-3


@each_ball
def test_away_from_the_box_the_step_is_known_in_closed_form(threat: Ball) -> None:
    """L_inf: |offset| / |w|_1 in each pixel, against the sign of w; L2: |offset| / |w|_2 on w."""
    points, weights, _ = problem("normal", "uniform", 0.5)
    points = 0.4 + 0.2 * points
    offset = seeded(1, lambda: torch.randn(COUNT, 2)) * weights.abs().sum(1, keepdim=True) / 50
    steps, lengths = steps_onto(threat)(points, weights, offset)
    dual = torch.linalg.vector_norm(weights, ord=1 if threat is LINF else 2, dim=1)[:, None]
    within = offset.abs() / weights.square().sum(1, keepdim=True) * weights.abs().amax(1)[:, None]
    rows = (within < 0.3) if threat is EUCLIDEAN else (offset.abs() / dual < 0.3)
    assert rows.float().mean() > 0.5
    torch.testing.assert_close(lengths[rows], (offset.abs() / dual)[rows], rtol=1e-5, atol=1e-7)
    direction = weights.sign() if threat is LINF else weights / dual
    expected = -(offset / dual)[..., None] * direction[:, None]
    torch.testing.assert_close(steps[rows], expected[rows], rtol=1e-5, atol=1e-6)


@each_ball
def test_the_box_shares_the_way_as_worked_by_hand(threat: Ball) -> None:
    """w = (3, 4), x = (.1, .5), <w, x> must fall by 1.1: x_1 stops at 0 after .3 of it."""
    points = torch.tensor([[[0.1, 0.5]]])
    steps, lengths = steps_onto(threat)(points, torch.tensor([[3.0, 4.0]]), torch.tensor([[1.1]]))
    torch.testing.assert_close(steps, torch.tensor([[[-0.1, -0.2]]]))
    expected = 0.2 if threat is LINF else 0.05**0.5
    torch.testing.assert_close(lengths, torch.tensor([[expected]]))


@each_ball
def test_where_nothing_can_be_done_the_step_is_zero(threat: Ball) -> None:
    """No normal, no offset, or no room: finite zeros."""
    points = torch.tensor([[[0.5, 0.5]], [[0.5, 0.5]], [[0.0, 1.0]]])
    normal = torch.tensor([[0.0, 0.0], [1.0, 2.0], [1.0, -2.0]])
    offset = torch.tensor([[1.0], [0.0], [1.0]])
    steps, lengths = steps_onto(threat)(points, normal, offset)
    assert torch.equal(steps, torch.zeros(3, 1, 2))
    assert torch.equal(lengths, torch.zeros(3, 1))


@each_ball
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12])
def test_no_scale_of_the_normal_makes_it_nan(scale: float, threat: Ball) -> None:
    points, weights, offset = problem("sparse", "binary", 0.5)
    for factor in (1.0, scale):
        steps, lengths = steps_onto(threat)(points, weights * scale, offset * factor)
        assert steps.isfinite().all()
        assert lengths.isfinite().all()
        assert -1e-7 <= (points + steps).min() <= (points + steps).max() <= 1 + 1e-7


@each_ball
def test_pixels_without_weight_stay(threat: Ball) -> None:
    points, weights, offset = problem("sparse", "uniform", 1.5)
    steps, _ = steps_onto(threat)(points, weights, offset)
    assert torch.equal((steps != 0).any(1), weights != 0)


@each_ball
def test_it_never_waits_for_the_device(threat: Ball) -> None:
    with FakeTensorMode():
        steps, _ = steps_onto(threat)(torch.empty(3, 2, 5), torch.empty(3, 5), torch.empty(3, 2))
        assert steps.shape == (3, 2, 5)


def test_other_balls_are_refused() -> None:
    class Diamond:
        epsilon = 1.0
        tolerance = 1e-6
        norm, text = NORMS["linf"], "diamond:1"
        distance = project = around = sample = surface = ascend = violation = lambda self: None

    with pytest.raises(SettingError, match="known for Linf and L2 alone"):
        steps_onto(Diamond())
