import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from lrat.errors import SettingError
from lrat.evaluation import mcnemar, paired_difference, wilson
from lrat.evaluation.statistics import holm, sign_flip, smallest_detectable
from lrat.text import SMALLEST_P, p_in_words

COUNTS = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 200))


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857-872, Table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_values(successes, n, low, high):
    share = wilson(successes, n)
    assert share.value == successes / n
    assert share.low == pytest.approx(low, abs=5e-5)
    assert share.high == pytest.approx(high, abs=5e-5)


def test_wilson_at_the_ends_stays_in_the_unit_interval_and_is_not_empty():
    none, every = wilson(0, 10), wilson(10, 10)
    assert none.low == 0
    assert every.high == 1
    assert none.high == pytest.approx(1 - every.low)
    assert none.high > 0.2


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(SettingError, match="0 <= successes <= n"):
        wilson(successes, n)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (0, 5, 2 / 32),
        (6, 0, 2 / 64),
        (1, 7, 2 * (1 + 8) / 256),
        # Cavo et al. 2012 in Fagerland et al., Statistical Analysis of Contingency Tables, ch. 8.
        (6, 16, 0.052479),
    ],
)
def test_mcnemar_equals_hand_values(only_a, only_b, p):
    assert mcnemar(only_a, only_b) == pytest.approx(p, abs=1e-6)


@pytest.mark.parametrize(
    ("only_a", "only_b", "n", "low", "high"),
    [
        # Both in Fagerland et al., Statistical Analysis of Contingency Tables, ch. 8.
        (6, 16, 161, -0.1240, -0.0054),
        (1, 7, 21, -0.517, -0.026),
    ],
)
def test_tango_equals_published_values(only_a, only_b, n, low, high):
    gap = paired_difference(only_a, only_b, n)
    digits = 5e-5 if n == 161 else 5e-4
    assert gap.value == pytest.approx((only_a - only_b) / n)
    assert gap.low == pytest.approx(low, abs=digits)
    assert gap.high == pytest.approx(high, abs=digits)


def test_tango_without_differing_images_is_the_one_sided_wilson_bound():
    # T(d)^2 = n d / (1 - d) = z^2 gives d = z^2 / (n + z^2), the upper end of Wilson at 0 of n.
    gap = paired_difference(0, 0, 50)
    assert gap.high == pytest.approx(wilson(0, 50).high)
    assert gap.low == pytest.approx(-gap.high)


def test_tango_at_the_ends():
    # (1 - d) / (1 + d) = z^2 / n at only_a = n.
    ratio = 1.959963984540054**2 / 10
    gap = paired_difference(10, 0, 10)
    assert gap.high == 1
    assert gap.low == pytest.approx((1 - ratio) / (1 + ratio))


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(0, 3, 40), (12, 2, 50), (40, 20, 160)])
def test_tango_is_antisymmetric_and_holds_the_value(only_a, only_b, n):
    gap, mirrored = paired_difference(only_a, only_b, n), paired_difference(only_b, only_a, n)
    assert gap.low <= gap.value <= gap.high
    assert gap.low == pytest.approx(-mirrored.high)
    assert gap.high == pytest.approx(-mirrored.low)


@pytest.mark.parametrize(("only_a", "only_b"), [(10, 3), (30, 12), (5, 5)])
def test_tango_excludes_zero_where_the_mcnemar_score_test_rejects(only_a, only_b):
    gap = paired_difference(only_a, only_b, 200)
    score = abs(only_a - only_b) / math.sqrt(only_a + only_b)
    assert (gap.low > 0) == (score > 1.959963984540054)


def test_a_paired_comparison_refuses_impossible_counts():
    with pytest.raises(SettingError, match="at most n"):
        paired_difference(3, 3, 5)
    with pytest.raises(SettingError, match=">= 0"):
        mcnemar(-1, 5)


@settings(max_examples=50, deadline=None)
@given(COUNTS)
def test_intervals_hold_their_value_and_turn_around_with_the_sides(counts):
    only_a, only_b, rest = counts
    n = only_a + only_b + rest
    gap, mirrored = paired_difference(only_a, only_b, n), paired_difference(only_b, only_a, n)
    assert -1 <= gap.low <= gap.value <= gap.high <= 1
    assert (gap.low, gap.high) == (pytest.approx(-mirrored.high), pytest.approx(-mirrored.low))
    share = wilson(only_a, n)
    assert 0 <= share.low <= share.value <= share.high <= 1
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a)


def by_enumeration(scores):
    """The sign-flip p from all signs."""
    seen = abs(sum(scores))
    sums = [
        abs(sum(sign * score for sign, score in zip(signs, scores, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(scores))
    ]
    return sum(each >= seen for each in sums) / len(sums)


@pytest.mark.parametrize(
    "scores",
    [[3, 1, -2], [4, 2, 2, -6, 8], [1, 2, 3, 4, 5, 6], [9, -9, 1], [2, 2, 4, 0, 0, -1, -1, 3]],
)
def test_sign_flip_equals_the_enumeration_of_all_signs(scores):
    assert sign_flip(np.array(scores)) == pytest.approx(by_enumeration(scores), abs=1e-12)
    assert sign_flip(-np.array(scores)) == pytest.approx(sign_flip(np.array(scores)))


def test_sign_flip_by_hand():
    # 3 + 1 against 2: sums of +-3 +-1 +-2 are 6, 4, 2, 0, 0, -2, -4, -6; six of eight are >= 2.
    assert sign_flip(np.array([3, 1, -2])) == pytest.approx(6 / 8)


@pytest.mark.parametrize("scale", [1, 3])
def test_sign_flip_of_single_verdicts_is_mcnemars_test(scale):
    scores = scale * np.array([1] * 16 + [-1] * 6 + [0] * 50)
    assert sign_flip(scores) == mcnemar(16, 6)
    assert sign_flip(np.zeros(5, dtype=np.int64)) == 1


def test_sign_flip_of_many_images_follows_the_normal_law():
    scores = np.repeat([3, -3, 1, -1, 2], [700, 640, 900, 900, 2])
    z = abs(scores.sum()) / math.sqrt((scores.astype(float) ** 2).sum())
    assert sign_flip(scores) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.02)


@pytest.mark.parametrize("count", [60, 900])
def test_sign_flip_gives_a_bound_where_rounding_hides_p(count):
    scores = np.array([2] * count + [1] * count)
    assert sign_flip(scores) == sign_flip(-scores) == SMALLEST_P
    assert p_in_words(sign_flip(scores)) == "p < 1e-12"
    assert p_in_words(0.0312) == "p = 0.031"


def test_holm_by_hand():
    # Smallest .01 x 4, then .02 x 3, .03 x 2; .04 x 1 is below the one before, so it takes that.
    assert holm([0.02, 0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.06, 0.04, 0.06])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []
    with pytest.raises(SettingError, match=r"\[0, 1\]"):
        holm([1.2])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_p_values_and_bonferroni(p_values):
    adjusted = holm(p_values)
    for p, each in zip(p_values, adjusted, strict=True):
        assert p <= each <= 1
    assert min(adjusted) == min(1, len(p_values) * min(p_values))
    assert sorted(adjusted) == [adjusted[i] for i in np.argsort(p_values, kind="stable")]


def power(delta, share, n, level):
    """Of the exact McNemar test, where ``share`` of the images differ and ``delta`` is true."""
    total = 0.0
    for differ in range(n + 1):
        weight = binom.pmf(differ, n, share)
        if weight < 1e-9:
            continue
        rejected = [k for k in range(differ + 1) if mcnemar(k, differ - k) < level]
        total += weight * binom.pmf(rejected, differ, (1 + delta / share) / 2).sum()
    return total


@pytest.mark.parametrize(
    ("differing", "n", "comparisons"), [(30, 300, 1), (12, 100, 1), (40, 200, 5), (1, 60, 1)]
)
def test_the_detectable_difference_is_shown_about_four_times_in_five(differing, n, comparisons):
    delta = smallest_detectable(differing, n, comparisons=comparisons)
    share = max(differing / n, delta)
    assert 0.68 < power(delta, share, n, 0.05 / comparisons) < 0.9
    assert power(delta / 2, max(differing / n, delta / 2), n, 0.05 / comparisons) < 0.4


def test_the_detectable_difference_solves_connors_equation():
    # sqrt(n) delta = 1.96 sqrt(s) + .8416 sqrt(s - delta^2), s = .1, n = 300.
    delta = smallest_detectable(30, 300)
    right = 1.959964 * math.sqrt(0.1) + 0.841621 * math.sqrt(0.1 - delta * delta)
    assert math.sqrt(300) * delta == pytest.approx(right, abs=1e-5)


def test_more_images_show_more_and_too_few_show_nothing():
    sizes = [smallest_detectable(n // 10, n) for n in (50, 200, 1000, 10000)]
    assert sizes == sorted(sizes, reverse=True)
    assert smallest_detectable(0, 2) == 1
    assert smallest_detectable(30, 300, comparisons=10) > smallest_detectable(30, 300)
    with pytest.raises(SettingError, match="differing <= n"):
        smallest_detectable(5, 4)
