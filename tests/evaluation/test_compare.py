import numpy as np
import pytest

from evaluation.parts import THREAT, Calls, batches_of, images_and_labels, linear
from lrat.errors import DataError, LratError, SettingError
from lrat.evaluation import EvaluationResult, Outcomes, compare, custom, evaluate_suite

N = 100


def result(stands, *, labels=None, first=0, threat="Linf(epsilon=8/255)", attacks=None, **identity):
    """A result whose images survive as ``stands`` says, per attack."""
    count = len(next(iter(stands.values())))
    labels = np.zeros(count) if labels is None else labels
    parts = []
    for name, right in {"natural": np.ones(count, dtype=bool), **stands}.items():
        columns = dict.fromkeys(
            ("margin_clean", "margin", "step", "source", "forwards", "backwards", "distance"),
            np.zeros(count),
        )
        parts.append(
            Outcomes.from_columns(
                columns
                | {
                    "index": np.arange(first, first + count),
                    "label": labels,
                    "attack": np.full(count, name),
                    "fooled": ~right,
                    "prediction": np.where(right, labels, labels + 1),
                }
            )
        )
    settings = {"suite": "s", "threat": threat, "tolerance": 1e-6, "seed": 0}
    attacks = attacks or dict.fromkeys(stands, "settings")
    return EvaluationResult(
        outcomes=Outcomes.concatenate(parts), identity={**settings, "attacks": attacks, **identity}
    )


def survive(*right):
    stands = np.zeros(N, dtype=bool)
    for start, stop in right:
        stands[start:stop] = True
    return stands


def test_identical_results_cannot_be_told_apart():
    one = result({"pgd": survive((0, 50))})
    comparison = compare(one, one)
    assert list(comparison.contrasts) == ["natural", "pgd", "worst case"]
    for contrast in comparison.contrasts.values():
        assert contrast.p == 1
        assert contrast.difference.value == 0
        assert contrast.difference.low < 0 < contrast.difference.high
        assert contrast.verdict == "cannot be told apart on 100 images"


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
    assert "20.00" in pgd
    assert "29.00" in pgd
    assert "-9.00" in pgd
    assert "0.0039" in pgd
    assert pgd.endswith("b is better")
    assert "100 common images" in rows[-1]
    assert "McNemar" in rows[-1]


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
