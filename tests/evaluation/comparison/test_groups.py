import json

import numpy as np
import pytest
from scipy import stats

from evaluation.results import result
from lrat.errors import DataError, SettingError
from lrat.evaluation import compare, wilson
from lrat.evaluation.comparison.group_scores import compare_groups
from lrat.evaluation.comparison.groups import Group, Run

N = 200


def stands(count, shift=0, n=N):
    """``count`` of ``n`` images right, from the ``shift``-th on."""
    return np.roll(np.arange(n) < count, shift)


def run(name, pgd, cw=None, *, seed=0, source=None, **identity):
    right = {"pgd": pgd} if cw is None else {"pgd": pgd, "cw": cw}
    return Run(name=name, result=result(right, **identity), seed=seed, source=source)


def group(name, counts, *, seeds=None, shift=0):
    seeds = range(len(counts)) if seeds is None else seeds
    runs = [
        run(f"{name}/{seed}", stands(count, shift), stands(count - 20, shift), seed=seed)
        for seed, count in zip(seeds, counts, strict=True)
    ]
    return Group(name=name, runs=tuple(runs))


def joined(known, first, second):
    """The half-width of scipy's interval over seeds with that over the images, in squares."""
    ends = known.confidence_interval(0.95)
    of_first, of_second = (np.mean([stands(k) for k in side], axis=0) for side in (first, second))
    return np.hypot((ends.high - ends.low) / 2, 1.959964 * np.std(of_second - of_first) / N**0.5)


def contrast(found, attack, name=None):
    matching = [
        each
        for each in found.contrasts
        if each.attack == attack and (name is None or each.group == name)
    ]
    (each,) = matching
    return each


def test_scores_of_several_runs_and_of_one():
    found = compare_groups([group("sat", [100, 104, 96]), group("mart", [120])])
    several, one = found.rows
    assert list(several.scores) == ["natural", "pgd", "cw", "average", "worst case"]
    pgd = several.scores["pgd"]
    assert (pgd.value, pgd.n) == (pytest.approx(0.5), 3)
    half = 4.302653 * 0.02 / np.sqrt(3)
    images = wilson(100, N)
    assert 0.5 - pgd.low == pytest.approx(np.hypot(half, 0.5 - images.low))
    assert pgd.high - 0.5 == pytest.approx(np.hypot(half, images.high - 0.5))
    assert several.scores["average"].value == pytest.approx(0.45)
    natural = several.scores["natural"]
    assert (natural.low, natural.high) == (wilson(N, N).low, 1), "without spread, of the images"
    average = several.scores["average"]
    assert average.value - average.low > 0.45 - wilson(90, N).low
    assert one.scores["pgd"] == wilson(120, N)
    assert one.scores["worst case"] == wilson(100, N)
    assert one.scores["average"].value == pytest.approx(0.55)
    assert (several.seeds, several.images) == ((0, 1, 2), (N, N))


def test_no_interval_of_an_accuracy_leaves_the_unit_interval():
    low = compare_groups([group("sat", [40, 90])]).rows[0].scores["worst case"]
    high = compare_groups([group("sat", [130, 199])]).rows[0].scores["pgd"]
    assert (low.low, high.high) == (0, 1)


def test_groups_of_equal_seeds_are_compared_pair_by_pair():
    # Named in another order: seeds decide which runs belong together.
    sat = group("sat", [100, 110, 90])
    mart = group("mart", [97, 108, 117], seeds=[2, 0, 1])
    pgd = contrast(compare_groups([sat, mart]), "pgd")
    known = stats.ttest_rel([0.54, 0.585, 0.485], [0.5, 0.55, 0.45])
    assert pgd.basis == "paired t"
    half = joined(known, [100, 110, 90], [108, 117, 97])
    assert (pgd.high - pgd.low) / 2 == pytest.approx(half)
    assert (pgd.low + pgd.high) / 2 == pytest.approx(pgd.difference)
    assert known.pvalue < pgd.p < 0.05
    assert pgd.difference == pytest.approx((8 + 7 + 7) / 3 / N)
    assert pgd.verdict == "better"


def test_groups_of_other_seeds_are_compared_by_welch():
    found = compare_groups([group("sat", [100, 110, 90]), group("mart", [120, 124], seeds=[7, 8])])
    pgd = contrast(found, "pgd")
    known = stats.ttest_ind([0.6, 0.62], [0.5, 0.55, 0.45], equal_var=False)
    assert pgd.basis == "Welch"
    assert (pgd.high - pgd.low) / 2 == pytest.approx(joined(known, [100, 110, 90], [120, 124]))
    assert known.pvalue < pgd.p
    assert pgd.size == "2 and 3 runs"


def test_single_runs_are_compared_over_images_as_two_runs_are():
    found = compare_groups([group("sat", [100]), group("mart", [112]), group("mail", [90])])
    a, b = group("mart", [112]).runs[0].result, group("sat", [100]).runs[0].result
    for name, known in compare(a, b).contrasts.items():
        each = contrast(found, name, "mart")
        assert each.basis == "images"
        assert each.p == known.p
        assert (each.difference, each.low, each.high) == pytest.approx(
            (known.difference.value, known.difference.low, known.difference.high)
        )
    assert contrast(found, "pgd", "mail").verdict == "worse"


def test_p_is_adjusted_for_every_comparison_of_the_table():
    found = compare_groups([group("sat", [100]), group("mart", [108]), group("mail", [100])])
    assert len(found.contrasts) == 10
    pgd = contrast(found, "pgd", "mart")
    assert pgd.p == pytest.approx(2 / 2**8)
    # Three rows have this p, the average has a smaller one.
    assert pgd.p_adjusted == pytest.approx(9 * 2 / 2**8)
    assert pgd.verdict == "not significant"
    assert "mart and sat do not differ significantly at n = 200" in pgd.words


def test_equal_shares_of_unequal_groups_cancel_over_images():
    one, two = group("sat", [100]), group("mart", [100, 100], seeds=[1, 2])
    pgd = contrast(compare_groups([one, two]), "pgd")
    assert (pgd.basis, pgd.p_images, pgd.difference) == ("images", 1, 0)
    assert pgd.low < 0 < pgd.high


def test_swapping_two_groups_turns_the_signs():
    sides = [group("sat", [100, 110, 90]), group("mart", [120, 109, 117])]
    for there, back in zip(
        compare_groups(sides).contrasts, compare_groups(sides[::-1]).contrasts, strict=True
    ):
        assert there.difference == pytest.approx(-back.difference)
        assert (there.p, there.p_images) == pytest.approx((back.p, back.p_images))
        if there.low is not None:
            assert there.low == pytest.approx(-back.high)


def folded(name, count, seed):
    return run(name, stands(count), seed=seed, source="digits", data=f"fold {seed}")


def test_splits_of_one_data_set_are_compared_over_seeds():
    sat = Group(name="sat", runs=tuple(folded(f"s{k}", 100 + 5 * k, k) for k in range(3)))
    mart = Group(name="mart", runs=tuple(folded(f"m{k}", 120 + 6 * k, k) for k in range(3)))
    pgd = contrast(compare_groups([sat, mart]), "pgd")
    assert pgd.basis == "paired t"
    # Per fold 20, 21 and 22 images that only one side gets right, all for the same side.
    assert pgd.p_images == pytest.approx(2 / 2**63, rel=1e-6)
    other = Group(name="mail", runs=(folded("t", 120, 7),))
    without = contrast(compare_groups([sat, other]), "pgd")
    assert (without.basis, without.p, without.low) == ("none", None, None)
    assert without.verdict == "no test"
    assert "cannot be compared" in without.words
    assert "cannot be compared" in str(compare_groups([sat, other]))


@pytest.mark.parametrize(
    ("other", "kind", "message"),
    [
        (run("b", stands(9), seed=1, data="svhn"), DataError, r"data differ \(cifar in a, svhn in"),
        (
            run("b", stands(9), seed=0, source="digits", data="svhn"),
            DataError,
            "data differ",
        ),
        (run("b", stands(9), data="cifar", threat="L2"), SettingError, "in a and L2 in b"),
        (
            run("b", stands(9), data="cifar", attacks={"pgd": "x"}),
            SettingError,
            r"pgd has other settings in a \(settings\) than in b",
        ),
        (run("b", stands(9), data="cifar", first=N), DataError, "no image in common"),
    ],
)
def test_runs_that_do_not_match_are_refused_by_name(other, kind, message):
    first = run("a", stands(50), seed=0, source="digits", data="cifar")
    groups = [Group(name=each.name, runs=(each,)) for each in (first, other)]
    with pytest.raises(kind, match=message) as error:
        compare_groups(groups)
    assert "\n" not in str(error.value)


def test_groups_that_are_none_are_refused():
    with pytest.raises(SettingError, match="at least one group"):
        compare_groups([])
    with pytest.raises(SettingError, match="no runs"):
        Group(name="sat", runs=())
    twice = (run("runs/a", stands(5), seed=3), run("runs/b", stands(6), seed=3))
    with pytest.raises(SettingError, match="runs/a and runs/b are the same configuration"):
        Group(name="sat", runs=twice)


def test_only_common_images_count():
    wide = Group(name="sat", runs=(run("a", stands(100)),))
    late = Group(name="mart", runs=(run("b", stands(10, n=50), seed=1, first=80),))
    rows = compare_groups([wide, late]).rows
    assert [row.images for row in rows] == [(50, 50), (50, 50)]
    # Of images 80..129 the first has 80..99 right, the other 80..89.
    assert [row.scores["pgd"].value for row in rows] == [pytest.approx(0.4), pytest.approx(0.2)]


def test_the_text_fits_a_hundred_columns_and_the_record_is_plain():
    attacks = {f"pgd-20-scale-{k}": stands(90 + k) for k in range(10)}
    groups = [
        Group(
            name=name,
            runs=tuple(
                Run(name=f"{name}{seed}", result=result(attacks), seed=seed)
                for seed in range(count)
            ),
        )
        for name, count in (("sat", 12), ("lrat-saa+cw alpha=2.0", 1))
    ]
    found = compare_groups(groups)
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 100
    assert any("12: 0 to 11" in line for line in lines)
    for name in attacks:
        assert any(name in line for line in lines)
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert [each["name"] for each in record["groups"]] == ["sat", "lrat-saa+cw alpha=2.0"]
    assert len(record["contrasts"]) == 13
