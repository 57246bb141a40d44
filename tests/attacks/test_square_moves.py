"""Square's windows, starts and proposals: sizes as in AutoAttack, positions per image."""

from typing import Any

import pytest
import torch
from torch import Tensor

from builders import keyed
from lrat.attacks.square_moves import BLOCK, L2Moves, LinfMoves, opposed_bumps, window_side
from lrat.randomness import Noise, Sequential
from lrat.threat import L2, Ball, Linf


def test_numbers_drawn_as_a_block_are_those_drawn_one_by_one() -> None:
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    block = Sequential(generators[0]).uniform((1, BLOCK, 5), "windows")[0]
    for drawn in block:
        single = [torch.rand(shape, generator=generators[1]) for shape in ([1], [1], [3, 1, 1])]
        assert torch.equal(drawn, torch.cat([part.flatten() for part in single]))


def test_the_windows_shrink_as_in_autoattack() -> None:
    """p = 0.8, halved after queries 10, 50, 200, ...; 32x32 pixels."""
    shape = torch.Size((3, 32, 32))
    expected = {0: 29, 10: 29, 11: 20, 50: 20, 51: 14, 200: 14, 201: 10, 500: 10, 501: 7}
    expected |= {1000: 7, 1001: 5, 2000: 5, 2001: 4, 4000: 4, 4001: 3, 6001: 2, 8000: 2, 8001: 1}
    assert {query: window_side(query, 0.8, shape) for query in expected} == expected
    odd = {0: 29, 11: 21, 51: 15, 201: 11, 501: 7, 2001: 5, 4001: 3, 8001: 3}
    assert {query: window_side(query, 0.8, shape, smallest=3) for query in odd} == odd
    assert window_side(0, 0.8, torch.Size((1, 2, 40))) == 2
    assert window_side(0, 0.8, torch.Size((1, 2, 40)), smallest=3) == 2


def test_bumps_have_two_signs_and_norm_one() -> None:
    for side in range(1, 12):
        patterns = opposed_bumps(side)
        torch.testing.assert_close(patterns.square().sum((1, 2)), torch.ones(2))
        assert torch.equal(patterns[1], patterns[0].T)
        assert (patterns[0][: side // 2] > 0).all()
        assert (patterns[0][side // 2 :] < 0).all()


def linf_steps(noise: Noise, count: int, queries: int, side: int = 16) -> list[Tensor]:
    """Per query the change of each image [B C H W], in units of epsilon."""
    center = torch.full((count, 3, side, side), 0.5)
    moves = LinfMoves.around(center, Linf(epsilon=0.25), noise, queries=queries, p_init=0.8)
    none = torch.zeros(count, dtype=torch.bool)
    return [(moves.propose(center, query, none) - center) / 0.25 for query in range(queries)]


@pytest.mark.parametrize("per_image", [True, False], ids=["keyed", "sequential"])
def test_a_proposal_is_one_window_with_a_sign_per_channel(per_image: bool) -> None:
    noise: Noise = keyed(5) if per_image else Sequential(torch.Generator().manual_seed(0))
    seen = set()
    for query, change in enumerate(linf_steps(noise, 5, 250)):
        side = window_side(query, 0.8, change.shape[1:])
        assert set(change.unique().tolist()) <= {-1.0, 0.0, 1.0}
        assert ((change != 0).flatten(2).sum(2) == side * side).all()
        assert ((change.sum((2, 3)).abs()) == side * side).all()
        rows = (change != 0).any(3)[:, 0]
        assert (rows.sum(1) == side).all()
        assert (rows.int().diff(dim=1).abs().sum(1) <= 2).all(), "rows of a window are neighbours"
        seen.add(len(change.flatten(1).unique(dim=0)))
    assert (max(seen) > 3) == per_image
    assert (seen == {1}) != per_image


def test_own_windows_reach_every_place() -> None:
    """Also the last row and column, which the reference leaves out."""
    covered = torch.stack(linf_steps(keyed(40), 40, 60, side=4)).ne(0)
    assert covered[11:].any(0).any(0).all()


@pytest.mark.parametrize("threat", [Linf(epsilon=0.1), L2(epsilon=1.0)], ids=["linf", "l2"])
def test_the_start_fills_the_ball(threat: Ball) -> None:
    center = torch.full((4, 3, 11, 13), 0.5)
    kind: Any = LinfMoves if isinstance(threat, Linf) else L2Moves
    start = kind.around(center, threat, keyed(4), queries=1, p_init=0.8).start()
    torch.testing.assert_close(threat.distance(start, center), torch.full((4,), threat.epsilon))
    assert len(start.flatten(1).unique(dim=0)) == 4
    if isinstance(threat, Linf):
        assert torch.equal(start, start[:, :, :1].expand_as(start)), "stripes are vertical"


def test_l2_proposals_stay_on_the_sphere_and_move_mass_between_windows() -> None:
    center = torch.full((6, 3, 15, 15), 0.5)
    moves = L2Moves.around(center, L2(epsilon=1.0), keyed(6), queries=150, p_init=0.8)
    none = torch.zeros(6, dtype=torch.bool)
    best = moves.start()
    for query in range(150):
        proposed = moves.propose(best, query, none)
        distance = L2(epsilon=1.0).distance(proposed, center)
        torch.testing.assert_close(distance, torch.ones(6), rtol=1e-5, atol=0)
        pixels = ((proposed - best).abs() > 1e-6).any(1).flatten(1).sum(1)
        assert (pixels > 0).all()
        assert (pixels <= 2 * window_side(query, 0.8, center.shape[1:], 3) ** 2).all()
        best = proposed
