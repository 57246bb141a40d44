import math

import pytest

from lrat.errors import SettingError
from lrat.evaluation import mcnemar, paired_difference, wilson


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
