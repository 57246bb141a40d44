"""Differences over folds and over shared images against numbers computed by other code.

Accuracies of digits (five folds) and differences of Fashion-MNIST (three seeds) as they were
measured once; the expected ends were printed by scripts that share no line with the package.
"""

import math

import numpy as np
import pytest

from evaluation.results import result
from lrat.evaluation import mean_interval
from lrat.evaluation.comparison.group_scores import compare_groups
from lrat.evaluation.comparison.groups import Group, Run
from lrat.evaluation.comparison.seeds import paired_means, welch

SAT = {"pgd": [68.89, 72.78, 73.26, 71.31, 71.87], "auto": [62.78, 68.33, 67.97, 63.79, 68.80]}
SAT_LONG = {"pgd": [69.44, 77.78, 75.77, 76.60, 75.21], "auto": [66.39, 71.94, 71.59, 69.08, 70.19]}
GAIRAT = {"pgd": [54.72, 57.50, 60.72, 51.81, 60.17], "auto": [36.11, 45.83, 49.03, 36.21, 44.57]}
LRAT_CW = {"auto": [61.67, 65.83, 68.25, 64.62, 64.90], "cw": [69.44, 72.50, 73.54, 69.92, 73.26]}
LSAT_CW = {"cw": [70.83, 72.50, 72.42, 71.59, 73.82]}
GD_CW = {"auto": [63.61, 66.39, 66.57, 62.40, 63.79]}


@pytest.mark.parametrize(
    ("a", "b", "mean", "plain", "corrected"),
    [
        (SAT_LONG["auto"], SAT["auto"], 3.50, (1.78, 5.23, 0.0048), (0.92, 6.09, 0.0197)),
        (SAT_LONG["pgd"], SAT["pgd"], 3.34, (0.93, 5.74, 0.0183), (-0.27, 6.95, 0.0622)),
        (GAIRAT["auto"], SAT["auto"], -23.98, (-28.28, -19.69, 0.0001), (-30.43, -17.54, 0.0005)),
        (GAIRAT["pgd"], SAT["pgd"], -14.64, (-18.43, -10.85, 0.0004), (-20.33, -8.95, 0.0020)),
        (LRAT_CW["cw"], LSAT_CW["cw"], -0.50, (-1.89, 0.89, 0.3756), (-2.59, 1.59, 0.5430)),
        (GD_CW["auto"], LRAT_CW["auto"], -0.50, (-2.63, 1.63, 0.5491), (-3.70, 2.70, 0.6855)),
    ],
)
def test_folds_are_tested_as_nadeau_and_bengio_correct_them(a, b, mean, plain, corrected):
    for overlap, (low, high, p) in ((0.0, plain), (0.25, corrected)):
        found = paired_means(a, b, overlap=overlap)
        assert found.value == pytest.approx(mean, abs=0.005)
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)
        assert found.p == pytest.approx(p, abs=6e-5)
    assert found.test == "corrected t"


def test_a_mean_and_welchs_test_over_folds_are_corrected_likewise():
    values = SAT["auto"]
    plain, folds = mean_interval(values), mean_interval(values, overlap=0.25)
    ratio = math.sqrt((1 / 5 + 1 / 4) / (1 / 5))
    assert folds.high - folds.value == pytest.approx(ratio * (plain.high - plain.value))
    found = [welch(SAT["auto"], GAIRAT["auto"][:4], overlap=each) for each in (0.0, 0.25)]
    assert found[1].test == "corrected Welch"
    assert found[1].p > found[0].p
    assert found[1].high - found[1].low > found[0].high - found[0].low


@pytest.mark.parametrize(
    ("difference", "over_seeds", "n", "joined"),
    [
        (-16.17, 0.80, 1_000, 2.42),
        (-9.74, 0.85, 10_000, 1.03),
        (-15.36, 1.35, 10_000, 1.52),
        (0.47, 1.12, 1_000, 1.20),
        (-0.80, 0.43, 10_000, 0.47),
        (-2.33, 2.75, 1_000, 2.90),
    ],
)
def test_the_error_over_shared_images_is_joined_in_squares(difference, over_seeds, n, joined):
    t = 4.302653
    spread = over_seeds * math.sqrt(3) / t
    seeds = [difference - spread, difference, difference + spread]
    share = abs(difference) / 100
    error = 100 * math.sqrt((share - share**2) / n)  # only one side is ever right alone
    found = paired_means(seeds, [0, 0, 0], image_error=error)
    assert (found.high - found.low) / 2 == pytest.approx(joined, abs=0.011)
    assert found.test == "paired t"


def groups(shift: int, *, data=lambda seed: "same", overlap=0.0):
    """Three runs each, b right on ``shift`` more of 400 images, and one more per seed."""
    sides = []
    for name, extra in (("a", 0), ("b", shift)):
        runs = [
            Run(
                name=f"{name}{seed}",
                result=result(
                    {"pgd": np.arange(400) < 200 + extra + seed * (name == "b")}, data=data(seed)
                ),
                seed=seed,
                source="folds" if overlap else None,
                overlap=overlap,
            )
            for seed in range(3)
        ]
        sides.append(Group(name=name, runs=tuple(runs)))
    return sides


def test_groups_on_the_same_images_know_of_their_error():
    (pgd,) = [each for each in compare_groups(groups(40)).contrasts if each.attack == "pgd"]
    seeds = [0.1, 0.1025, 0.105]
    gaps = np.zeros(400)
    gaps[200:240], gaps[240], gaps[241] = 1, 2 / 3, 1 / 3
    known = paired_means(seeds, [0, 0, 0], image_error=float(gaps.std()) / 20)
    assert (pgd.low, pgd.high, pgd.p) == pytest.approx((known.low, known.high, known.p))
    alone = paired_means(seeds, [0, 0, 0])
    assert pgd.high - pgd.low > 3 * (alone.high - alone.low)
    assert pgd.p > alone.p


def test_an_interval_reaches_0_where_p_is_5_per_cent():
    for error in (0.0, 0.004, 0.02):
        found = paired_means([0.01, 0.02, 0.04], [0, 0, 0], image_error=error)
        assert (found.p < 0.05) == (found.low > 0)
        value = (found.high - found.low) / 2  # the mean moved to the end of the interval
        edge = paired_means([value - 0.0133333, value - 0.0033333, value + 0.0166667], [0, 0, 0],
                            image_error=error)  # fmt: skip
        assert edge.p == pytest.approx(0.05, abs=1e-4)


def test_groups_on_folds_are_corrected_and_those_on_one_fold_are_not():
    folds = compare_groups(groups(40, data=lambda seed: f"fold {seed}", overlap=0.25))
    pgd = next(each for each in folds.contrasts if each.attack == "pgd")
    known = paired_means([0.1, 0.1025, 0.105], [0, 0, 0], overlap=0.25)
    assert pgd.basis == "corrected t"
    assert (pgd.low, pgd.high, pgd.p) == pytest.approx((known.low, known.high, known.p))
    assert "Nadeau & Bengio" in str(folds)
    one = compare_groups(groups(40, overlap=0.25))
    assert {each.basis for each in one.contrasts} <= {"paired t", "images"}
