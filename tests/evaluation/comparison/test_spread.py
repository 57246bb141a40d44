import json

import numpy as np
import pytest

from evaluation.results import result
from lrat.errors import DataError, LratError, SettingError
from lrat.evaluation import wilson
from lrat.evaluation.comparison.seeds import attack_seed_spread


def stands(*fooled, n=20):
    right = np.ones(n, dtype=bool)
    right[list(fooled)] = False
    return right


def test_spread_by_hand():
    results = [
        result({"pgd": stands(0, 1), "cw": stands(9)}, seed=0),
        result({"pgd": stands(1, 2, 3), "cw": stands(9)}, seed=1),
        result({"pgd": stands(0), "cw": stands(9)}, seed=5),
    ]
    found = attack_seed_spread(results)
    assert found.seeds == (0, 1, 5)
    pgd, cw, worst = (found.spreads[name] for name in ("pgd", "cw", "worst case"))
    assert pgd.values == (0.9, 0.85, 0.95)
    assert (pgd.least, pgd.most) == (0.85, 0.95)
    assert pgd.mean.value == pytest.approx(0.9)
    assert pgd.mean.deviation == pytest.approx(0.05)
    # Images 0, 1, 2 and 3 fall to some seed; with 9 under the other attack these are five.
    assert pgd.over_seeds == wilson(16, 20)
    assert worst.over_seeds == wilson(15, 20)
    assert (cw.mean.deviation, cw.over_seeds) == (0, wilson(19, 20))
    assert list(found.spreads) == ["natural", "pgd", "cw", "worst case"]


def test_the_order_of_the_seeds_changes_nothing_but_the_order():
    results = [result({"pgd": stands(seed, 7)}, seed=seed) for seed in range(3)]
    found, turned = attack_seed_spread(results), attack_seed_spread(results[::-1])
    assert turned.seeds == (2, 1, 0)
    assert turned.spreads["pgd"].over_seeds == found.spreads["pgd"].over_seeds
    assert turned.spreads["pgd"].mean.value == pytest.approx(found.spreads["pgd"].mean.value)


def test_the_table_and_the_record():
    found = attack_seed_spread([result({"pgd": stands(*range(k))}, seed=k) for k in (2, 4)])
    lines = str(found).splitlines()
    pgd = next(line.split() for line in lines if line.startswith("pgd"))
    assert pgd[1:6] == ["85.00", "7.07", "80.00", "90.00", "80.00"]
    assert "attack seeds 2, 4" in str(found)
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["attack_seeds"] == [2, 4]
    assert record["spreads"]["pgd"]["values"] == [0.9, 0.8]
    assert record["spreads"]["pgd"]["least"] == 0.8


BASE = {"pgd": stands(0)}


@pytest.mark.parametrize(
    ("other", "kind", "message"),
    [
        (result(BASE, seed=0), SettingError, "attack seed 0 occurs twice"),
        (
            result(BASE, seed=1, model="b"),
            SettingError,
            r"more than the attack seed \(model: a there, b here",
        ),
        (
            result(BASE, seed=1, attacks={"pgd": "x"}),
            SettingError,
            "attacks.pgd: settings there, x here",
        ),
        (result(BASE, seed=1, threat="L2(epsilon=1)"), SettingError, "threat: "),
        (result(BASE, seed=1, first=4, model="a"), DataError, "other images"),
        (result({"pgd": stands(n=9)}, seed=1, model="a"), DataError, r"other images \(20 and 9\)"),
    ],
)
def test_results_of_anything_else_are_refused_with_the_difference(other, kind, message):
    if "model" not in other.identity:
        other.identity["model"] = "a"
    with pytest.raises(kind, match=message) as error:
        attack_seed_spread([result(BASE, model="a"), other])
    assert isinstance(error.value, LratError)
    assert "\n" not in str(error.value)


def test_one_seed_has_no_spread():
    with pytest.raises(SettingError, match="two seeds or more"):
        attack_seed_spread([result(BASE)])
