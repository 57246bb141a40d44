"""Top sets and their overlaps, against counting by hand and over all sets."""

from itertools import combinations

import numpy as np
import pytest

from lrat.analysis.overlaps import (
    chance_of_two,
    correlations,
    cut,
    jaccard_of_random_ties,
    most_vulnerable,
    overlap,
    size_of,
)
from lrat.errors import SettingError


def mask(n: int, *members: int) -> np.ndarray:
    rows = np.zeros(n, dtype=bool)
    rows[list(members)] = True
    return rows


def jaccard(*sets: tuple[int, ...]) -> float:
    members = [set(each) for each in sets]
    return len(set.intersection(*members)) / len(set.union(*members))


def test_sizes() -> None:
    assert [size_of(0.2, n) for n in (1, 2, 10, 10_000)] == [1, 1, 2, 2000]
    for share in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(SettingError, match="must lie in"):
            size_of(share, 10)


def test_the_most_vulnerable_have_the_smallest_values() -> None:
    values = np.array([0.5, 0.1, 0.9, 0.2])
    assert most_vulnerable(values, 2).tolist() == [False, True, False, True]


def test_ties_are_broken_in_turn_and_then_by_place() -> None:
    kappa = np.array([0, 0, 0, 3, 0])
    by_pgd = np.array([0.4, 0.2, 0.2, 0.0, 0.1])
    assert np.flatnonzero(most_vulnerable(kappa, 2, by_pgd)).tolist() == [1, 4]
    assert np.flatnonzero(most_vulnerable(kappa, 1, np.zeros(5))).tolist() == [0]
    assert np.flatnonzero(most_vulnerable(kappa, 3, np.zeros(5))).tolist() == [0, 1, 2]


def test_a_cut_tells_how_many_lie_at_the_edge() -> None:
    kappa = np.array([0, 1, 1, 1, 2])
    assert cut(kappa, 2) == {"value": 1.0, "below": 1, "at": 3, "taken_at": 1, "distinct": 3}


def test_an_overlap_by_hand() -> None:
    result = overlap(mask(10, 0, 1, 2), mask(10, 2, 3))
    assert (result.n, result.sizes, result.shared, result.union) == (10, (3, 2), 1, 4)
    assert result.jaccard == 0.25
    assert result.record()["sizes"] == [3, 2]


@pytest.mark.parametrize(("n", "first", "second"), [(2, 1, 1), (6, 2, 3), (5, 4, 4), (4, 4, 2)])
def test_the_chance_of_two_sets_is_exact(n: int, first: int, second: int) -> None:
    every = [
        jaccard(one, other)
        for one in combinations(range(n), first)
        for other in combinations(range(n), second)
    ]
    chance = chance_of_two(n, first, second)
    assert chance.how == "exact"
    assert chance.jaccard == pytest.approx(np.mean(every))
    assert chance.low is not None
    assert chance.high is not None
    inside = [chance.low <= each <= chance.high for each in every]
    assert np.mean(inside) >= 0.95


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 3, 2), (4, 4, 4), (5, 2, 3)])
def test_the_chance_of_three_small_sets_is_exact(sizes: tuple[int, int, int]) -> None:
    n = 5
    every = [
        jaccard(one, two, three)
        for one in combinations(range(n), sizes[0])
        for two in combinations(range(n), sizes[1])
        for three in combinations(range(n), sizes[2])
    ]
    chance = overlap(*(mask(n, *range(size)) for size in sizes)).chance
    assert chance.how == "exact"
    assert chance.jaccard == pytest.approx(np.mean(every))


def test_the_chance_of_three_large_sets_is_close() -> None:
    """Against random sets: 400 draws have a standard error of about .0001."""
    draw = np.random.default_rng(0)
    sets = [[mask(4000, *draw.permutation(4000)[:800]) for _ in range(3)] for _ in range(400)]
    results = [overlap(*three) for three in sets]
    chance = results[0].chance
    assert "ratio" in chance.how
    assert chance.jaccard == pytest.approx(np.mean([each.jaccard for each in results]), abs=5e-4)


def test_random_ties_are_averaged_over_all_choices() -> None:
    kappa = np.array([0, 1, 1, 1, 1, 2, 2])
    other = mask(7, 0, 2, 5)
    every = [jaccard((0, *taken), (0, 2, 5)) for taken in combinations((1, 2, 3, 4), 2)]
    assert jaccard_of_random_ties(kappa, 3, other) == pytest.approx(np.mean(every))


def test_random_ties_change_nothing_where_there_are_none() -> None:
    values = np.array([0.3, 0.1, 0.2, 0.9])
    other = mask(4, 1, 3)
    expected = overlap(most_vulnerable(values, 2), other).jaccard
    assert jaccard_of_random_ties(values, 2, other) == pytest.approx(expected)


def test_correlations_by_hand() -> None:
    same = correlations(np.array([1, 2, 3, 4]), np.array([1, 2, 4, 3]))
    assert same["spearman"] == pytest.approx(0.8)
    assert same["kendall"] == pytest.approx(4 / 6)
    assert correlations(np.array([1, 2]), np.array([2, 1])) == pytest.approx(
        {"spearman": -1, "kendall": -1}
    )


def test_a_constant_view_has_no_correlation() -> None:
    assert correlations(np.zeros(3), np.arange(3)) == {"spearman": None, "kendall": None}
