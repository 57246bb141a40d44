import json

import numpy as np
import pytest

from evaluation.parts import THREAT, Calls, batches_of, images_and_labels, linear
from evaluation.results import result
from lrat.errors import DataError, LratError, SettingError
from lrat.evaluation import EvaluationResult, compare, custom, evaluate_suite

N = 100


def survive(*right):
    stands = np.zeros(N, dtype=bool)
    for start, stop in right:
        stands[start:stop] = True
    return stands


def stood(*images):
    stands = np.zeros(10, dtype=bool)
    stands[list(images)] = True
    return stands


def test_identical_results_do_not_differ_significantly():
    one = result({"pgd": survive((0, 50))})
    comparison = compare(one, one)
    assert list(comparison.contrasts) == ["natural", "pgd", "worst case"]
    for contrast in comparison.contrasts.values():
        assert contrast.p == 1
        assert contrast.difference.value == 0
        assert contrast.difference.low < 0 < contrast.difference.high
        assert "do not differ significantly at n = 100: differences below" in contrast.words
        assert contrast.verdict == "not significant"


def test_counts_difference_and_verdict():
    # a alone: 1 image; b alone: 7 images. Another 9 only under cw.
    a = result({"pgd": survive((0, 41)), "cw": survive((0, 20))})
    b = result({"pgd": survive((0, 40), (50, 57)), "cw": survive((0, 29))})
    contrasts = compare(a, b).contrasts
    pgd, cw, worst = contrasts["pgd"], contrasts["cw"], contrasts["worst case"]
    assert (pgd.only_a, pgd.only_b) == (1, 7)
    assert pgd.p == pytest.approx(2 * 9 / 256)
    assert pgd.difference.value == pytest.approx(-0.06)
    assert not pgd.distinguishable
    assert (cw.only_a, cw.only_b, cw.p) == (0, 9, pytest.approx(2 / 512))
    assert cw.verdict == "b is better"
    assert cw.words == "cw: b is better by 9.0 points (p 0.0156)"
    assert compare(b, a).contrasts["cw"].verdict == "a is better"
    assert (worst.a.value, worst.b.value) == (pytest.approx(0.2), pytest.approx(0.29))


def test_the_table_says_everything():
    a = result({"pgd": survive((0, 20))})
    b = result({"pgd": survive((0, 29))})
    text = str(compare(a, b))
    header, rule, *rows = text.splitlines()
    assert header.split()[:3] == ["attack", "a", "%"]
    assert set(rule) == {"-"}
    pgd = next(row for row in rows if row.startswith("pgd"))
    for cell in ("20.00", "29.00", "-9.00", "0/9", "0.0039", "0.0117"):
        assert cell in pgd
    assert pgd.endswith("b is better")
    assert "b is better than a by this many points: pgd 9.0, worst case 9.0." in text
    assert "a and b do not differ significantly at n = 100" in text
    assert "100 common images" in text
    assert "McNemar" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_average_counts_attacks_and_tests_their_sum():
    # Of 10 images, a withstands both attacks on 2 and one on 4; b one on 3 of these.
    a = result({"pgd": stood(0, 1, 2, 3), "cw": stood(0, 1, 4, 5)})
    b = result({"pgd": stood(2, 3), "cw": stood(4)})
    average = compare(a, b).contrasts["average"]
    assert (average.a.value, average.b.value) == (pytest.approx(0.4), pytest.approx(0.15))
    # Scores 2, 2 on images 0 and 1 and 1 on image 5: of +-2 +-2 +-1 two of eight sums are 5.
    assert (average.only_a, average.only_b) == (3, 0)
    assert average.p == pytest.approx(2 / 8)
    rows = compare(a, b).contrasts
    for side in ("low", "high"):
        ends = [getattr(rows[name].difference, side) for name in ("pgd", "cw")]
        assert getattr(average.difference, side) == pytest.approx(sum(ends) / 2)
    assert "average" not in compare(result({"pgd": stood(0)}), result({"pgd": stood(1)})).contrasts


def test_claims_are_held_to_the_adjusted_p():
    a, b = result({"pgd": survive((0, 20))}), result({"pgd": survive((0, 26))})
    pgd = compare(a, b).contrasts["pgd"]
    assert pgd.p == pytest.approx(2 / 64)
    assert pgd.p_adjusted == pytest.approx(3 * 2 / 64)
    assert pgd.distinguishable
    assert not pgd.significant
    assert pgd.verdict == "not significant"


def test_the_record_holds_all_and_is_plain():
    a, b = result({"pgd": survive((0, 20))}), result({"pgd": survive((0, 29))})
    record = json.loads(json.dumps(compare(a, b).record(), allow_nan=False))
    assert record["images"] == 100
    pgd = record["contrasts"]["pgd"]
    assert pgd["verdict"] == "b is better"
    assert pgd["difference"]["value"] == pytest.approx(-0.09)
    assert 0 < pgd["detectable"] < 1


def test_only_shared_attacks_and_images_are_compared():
    a = result({"pgd": survive((0, 50)), "cw": survive((0, 50))})
    b = result({"pgd": survive((0, 50)), "apgd": survive((0, 10))}, first=40)
    comparison = compare(a, b)
    assert list(comparison.contrasts) == ["natural", "pgd", "worst case"]
    assert (comparison.n, comparison.n_a, comparison.n_b) == (60, 100, 100)
    # Of images 40..99, a has 40..49 right and b has 40..89.
    assert (comparison.contrasts["pgd"].only_a, comparison.contrasts["pgd"].only_b) == (0, 40)
    assert comparison.contrasts["worst case"].b.value == pytest.approx(50 / 60)


STANDS = {"pgd": survive((0, 50))}


@pytest.mark.parametrize(
    ("other", "kind", "message"),
    [
        (result(STANDS, threat="L2(epsilon=0.5)"), SettingError, "threats differ"),
        (result({"cw": STANDS["pgd"]}), SettingError, r"no attack in common \(pgd and cw\)"),
        (result(STANDS, attacks={"pgd": "other"}), SettingError, "pgd has other settings"),
        (result(STANDS, first=100), DataError, "no image in common"),
        (result(STANDS, labels=np.ones(N)), DataError, "image 0 has label 0 in a and 1 in b"),
        (result(STANDS, data="svhn"), DataError, r"data differ \(cifar and svhn\)"),
    ],
)
def test_results_that_do_not_match_are_refused_in_one_line(other, kind, message):
    with pytest.raises(kind, match=message) as error:
        compare(result(STANDS, data="cifar"), other)
    assert isinstance(error.value, LratError)
    assert "\n" not in str(error.value)


def test_stored_folders_compare_like_results(tmp_path):
    images, labels = images_and_labels()
    suite = custom(THREAT, {"step": Calls()})
    results = [
        evaluate_suite(
            linear(seed=seed), batches_of(images, labels), suite, folder=tmp_path / str(seed)
        )
        for seed in (0, 1)
    ]
    stored = [EvaluationResult.from_folder(tmp_path / str(seed)) for seed in (0, 1)]
    direct = compare(*results)
    assert str(compare(*stored)) == str(direct)
    assert direct.contrasts["natural"].only_a > 0
