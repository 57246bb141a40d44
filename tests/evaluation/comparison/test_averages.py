import numpy as np
import pytest

from evaluation.results import result
from lrat.evaluation import wilson
from lrat.evaluation.comparison.shared import average_accuracy, fooled_by_any


def stands(count, n=40):
    return np.arange(n) < count


def test_the_average_is_of_the_attacks_alone():
    found = average_accuracy(result({"pgd": stands(20), "cw": stands(10)}))
    assert found.value == pytest.approx(15 / 40)
    assert found.low == pytest.approx((wilson(20, 40).low + wilson(10, 40).low) / 2)
    assert found.high == pytest.approx((wilson(20, 40).high + wilson(10, 40).high) / 2)


def test_one_attack_is_its_own_average_and_none_has_none():
    assert average_accuracy(result({"pgd": stands(20)})) == wilson(20, 40)
    only_natural = result({"pgd": stands(20)}).outcomes.under("natural")
    bare = result({"pgd": stands(20)})
    identity = {**bare.identity, "attacks": {}}
    assert average_accuracy(type(bare)(outcomes=only_natural, identity=identity)) is None


def test_the_interval_of_an_average_covers_at_least_as_often_as_promised():
    # Attacks that fool overlapping images: the share of intervals that hold the truth.
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        level = random.random(80)
        found = average_accuracy(
            result({"pgd": level < 0.5, "cw": level < 0.3, "other": random.random(80) < 0.4})
        )
        covered += found.low <= (0.5 + 0.3 + 0.4) / 3 <= found.high
    assert covered / 300 > 0.93


def test_the_union_is_what_any_attack_fools():
    right = result({"pgd": np.arange(40) % 2 == 0, "cw": np.arange(40) % 3 == 0})
    found = fooled_by_any(right)
    assert found.value == pytest.approx(1 - 7 / 40)
    assert found.low == pytest.approx(1 - wilson(7, 40).high)
    assert found.high == pytest.approx(1 - wilson(7, 40).low)
