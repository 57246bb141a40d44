import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lrat.errors import SettingError
from lrat.evaluation.comparison.seeds import mean_interval, paired_means, welch

VALUES = st.lists(st.floats(0, 1), min_size=2, max_size=8)


def test_the_t_interval_by_hand():
    # Mean 51, deviation 1, t(.975, 2) = 4.302653: 51 -+ 4.302653 / sqrt(3).
    found = mean_interval([0.50, 0.51, 0.52])
    assert found.value == pytest.approx(0.51)
    assert found.deviation == pytest.approx(0.01)
    assert found.low == pytest.approx(0.51 - 0.01 * 4.302653 / math.sqrt(3), abs=1e-8)
    assert found.high == pytest.approx(0.51 + 0.01 * 4.302653 / math.sqrt(3), abs=1e-8)
    assert found.n == 3


def test_one_value_and_equal_values_have_no_interval():
    one = mean_interval([0.4])
    assert (one.value, one.low, one.high, one.deviation, one.n) == (0.4, None, None, None, 1)
    same = mean_interval([0.4, 0.4, 0.4])
    assert (same.low, same.high, same.deviation, same.n) == (None, None, 0, 3)


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf]])
def test_no_values_and_no_numbers_are_refused(values):
    with pytest.raises(SettingError, match="finite"):
        mean_interval(values)


@settings(deadline=None)
@given(VALUES)
def test_an_interval_holds_its_mean_and_does_not_depend_on_the_order(values):
    found, turned = mean_interval(values), mean_interval(values[::-1])
    assert found.value == pytest.approx(turned.value)
    if found.low is None:
        assert found.deviation == 0
    else:
        assert found.low < found.value < found.high
        assert found.low == pytest.approx(turned.low)


def test_welch_and_paired_t_equal_scipys():
    a, b = [0.51, 0.55, 0.49, 0.53], [0.48, 0.47, 0.50]
    found, known = welch(a, b), stats.ttest_ind(a, b, equal_var=False)
    ends = known.confidence_interval(0.95)
    assert found.p == pytest.approx(known.pvalue)
    assert found.freedom == pytest.approx(known.df)
    assert (found.low, found.high) == (pytest.approx(ends.low), pytest.approx(ends.high))
    assert found.test == "Welch"
    paired, known = paired_means(a[:3], b), stats.ttest_rel(a[:3], b)
    ends = known.confidence_interval(0.95)
    assert paired.p == pytest.approx(known.pvalue)
    assert (paired.low, paired.high) == (pytest.approx(ends.low), pytest.approx(ends.high))
    assert (paired.freedom, paired.test) == (2, "paired t")


@settings(deadline=None)
@given(VALUES, VALUES)
def test_a_difference_turns_around_with_its_sides(a, b):
    found, turned = welch(a, b), welch(b, a)
    assert (found is None) == (turned is None)
    if found is not None:
        assert found.low < found.value < found.high
        assert found.low == pytest.approx(-turned.high)
        assert found.p == pytest.approx(turned.p)


def test_pairing_removes_what_the_seeds_share():
    a = [0.30, 0.50, 0.70]
    b = [0.28, 0.47, 0.68]
    assert paired_means(a, b).p < 0.05 < welch(a, b).p


def test_nothing_is_claimed_without_spread():
    assert welch([0.5], [0.4, 0.6]) is None
    assert welch([0.5, 0.5], [0.4, 0.4]) is None
    assert paired_means([0.5, 0.6], [0.4, 0.5]) is None
    assert paired_means([0.5], [0.4]) is None
    with pytest.raises(SettingError, match="one to one: 2 and 1"):
        paired_means([0.5, 0.6], [0.4])


def test_the_detectable_difference_is_shown_about_four_times_in_five():
    draws = np.random.default_rng(0).normal(0, 0.01, (2000, 8))
    delta = np.mean([paired_means(list(row), [0.0] * 8).detectable for row in draws[:200]])
    p = stats.ttest_1samp(draws + delta, 0, axis=1).pvalue
    assert 0.7 < (p < 0.05).mean() < 0.9
    one, ten = (paired_means([1, 2, 4], [0, 0, 0], comparisons=k).detectable for k in (1, 10))
    assert ten > one
