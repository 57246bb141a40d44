"""Scores over seeds, tests against SAT, and what is said about them, on evaluations made up."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from evaluation.results import result
from lrat.evaluation import mean_interval, wilson
from lrat.evaluation.masking.panel import Check, Panel
from lrat.evaluation.statistics import smallest_detectable
from lrat.reproduce import table_text
from lrat.reproduce.evidence import Cost, Evidence, over_seeds
from lrat.reproduce.paper import TABLE_1
from lrat.reproduce.presets import Choice
from lrat.reproduce.tables import Table, make_table
from lrat.training import EpochRecord

IMAGES, FEW = 200, 40


def evidence(
    row: str, seed: int, robust: Sequence[float], *, folds: bool, masked: bool = False
) -> Evidence:
    """A run whose shares of robust images under PGD, CW and AutoAttack are given; the last of
    these on the first few images alone."""
    data = f"fold {seed}" if folds else "all"
    drawn = np.random.default_rng(seed).permutation(IMAGES)
    pgd, cw, auto = (drawn < round(share * IMAGES) for share in robust)
    short = result({"pgd-20": pgd, "cw-20": cw}, data=data)
    every = {"pgd-20": pgd[:FEW], "cw-20": cw[:FEW], "autoattack": auto[:FEW]}
    check = Check(name="gap", status="failed", value=1.0, limit=0.5, sentence="it does")
    return Evidence(
        row=row,
        seed=seed,
        folder=Path(f"{row}-seed-{seed}"),
        checkpoint="selected",
        config=Choice.of("digits").config(row, seed),
        results=(short, result(every, data=data)),
        masking=Panel(checks=(check,) if masked else (), n=FEW, threat="t"),
        cost=Cost(forwards=11.0, backwards=10.0, seconds=10.0 * (seed + 1)),
        epoch=3,
        last=EpochRecord(epoch=3, lr=0.1, loss=1.0, steps=1, images=1, terms={}),
        environment={"device": "cpu"},
    )


def table(*, folds: bool, seeds: int = 3, lost: float = 0.4) -> Table:
    """SAT, LRAT-SAA that is better by a hair, and GAIRAT that loses much under CW."""
    runs = {
        "sat": [evidence("sat", s, (0.6, 0.6, 0.5), folds=folds) for s in range(seeds)],
        "gairat": [
            evidence("gairat", s, (0.6, 0.6 - lost - 0.01 * s, 0.1), folds=folds, masked=True)
            for s in range(seeds)
        ],
        "lrat-saa": [evidence("lrat-saa", 0, (0.61, 0.6, 0.5), folds=folds)],
    }
    return make_table(
        "table1", runs, TABLE_1, source="digits" if folds else None, missing=["lrat-cw"]
    )


def test_one_seed_has_the_interval_of_its_images() -> None:
    share, expected = over_seeds([(30, 40)], same_images=True), wilson(30, 40)
    assert (share.value, share.low, share.high) == (expected.value, expected.low, expected.high)
    assert (share.n, share.deviation, share.basis) == (40, None, "images")


def test_seeds_that_test_other_images_are_pooled_with_students_interval() -> None:
    counts = [(25, 40), (24, 41), (26, 40)]
    share = over_seeds(counts, same_images=False)
    of_seeds = mean_interval([right / n for right, n in counts], overlap=1 / 4)
    assert share.value == 75 / 121
    assert share.n == 121
    assert of_seeds.low is not None
    assert of_seeds.high is not None
    assert share.high - share.low == pytest.approx(of_seeds.high - of_seeds.low)
    assert (share.low + share.high) / 2 == pytest.approx(share.value)
    assert share.basis == "seeds"


def test_seeds_that_test_the_same_images_know_of_both() -> None:
    counts = [(30, 40), (28, 40), (32, 40)]
    share = over_seeds(counts, same_images=True)
    students = mean_interval([right / n for right, n in counts])
    images = wilson(30, 40)
    assert share.n == 40
    assert share.basis == "seeds and images"
    assert students.high is not None
    half = students.high - students.value
    assert share.value - share.low == pytest.approx(np.hypot(half, 0.75 - images.low))
    assert share.high - share.value == pytest.approx(np.hypot(half, images.high - 0.75))


def test_seeds_without_spread_leave_the_interval_of_the_images() -> None:
    share = over_seeds([(40, 40), (40, 40)], same_images=False)
    assert (share.value, share.high, share.basis) == (1.0, 1.0, "images")
    assert share.low == wilson(80, 80).low
    wide = over_seeds([(1, 40), (9, 40)], same_images=False)
    assert (wide.low, wide.basis) == (0.0, "seeds")


@pytest.mark.parametrize("folds", [True, False])
def test_each_column_comes_from_the_evaluation_on_the_most_images(folds: bool) -> None:
    made = table(folds=folds)
    assert made.columns == ("natural", "pgd-20", "cw-20", "autoattack", "worst case")
    sat = made.rows[0]
    seeds = 3 if folds else 1
    assert [sat.scores[c].n for c in made.columns] == [seeds * IMAGES] * 3 + [seeds * FEW] * 2
    assert sat.scores["pgd-20"].value == pytest.approx(0.6)
    assert sat.cost.seconds == fmean([10, 20, 30])
    assert sat.paper == TABLE_1["sat"]


@pytest.mark.parametrize("folds", [True, False])
def test_rows_are_compared_on_the_seeds_that_both_have(folds: bool) -> None:
    made = table(folds=folds)
    lost = made.contrast("gairat", "cw-20")
    assert lost is not None
    assert lost.basis == ("corrected t" if folds else "paired t")
    assert lost.difference == pytest.approx(-0.41)
    assert table_text.mark(lost) == " *"
    gap = made.contrast("gairat", "pgd-20")
    assert gap is not None
    assert gap.basis == "images", "no spread between the seeds"
    assert gap.difference == 0
    alone = made.contrast("lrat-saa", "pgd-20")
    assert alone is not None
    assert (alone.basis, alone.size) == ("images", f"n = {IMAGES}")
    assert table_text.mark(alone) == ""
    assert made.contrast("sat", "pgd-20") is None


def test_p_values_are_adjusted_for_the_whole_table() -> None:
    made = table(folds=True)
    known = [each for each in made.contrasts if each.p is not None]
    assert len(known) == len(made.contrasts) == 2 * 5
    least = min(known, key=lambda each: each.p or 0.0)
    assert least.p is not None
    assert least.p_adjusted == pytest.approx(min(1.0, len(known) * least.p))


def test_what_would_have_shown_allows_for_the_whole_table() -> None:
    made = table(folds=False)
    alone = made.contrast("lrat-saa", "pgd-20")
    assert alone is not None
    differing = round(0.01 * IMAGES)
    assert alone.detectable == smallest_detectable(differing, IMAGES, comparisons=2 * 5)
    assert alone.detectable > smallest_detectable(differing, IMAGES, comparisons=5)


def test_folds_are_not_called_independent() -> None:
    assert "share training images" in table_text.about_intervals(table(folds=True))
    assert "share training images" not in table_text.about_intervals(table(folds=False))


def test_the_words_say_what_is_significant_and_what_is_not() -> None:
    text = table_text.conclusion(table(folds=False))
    assert "gairat is worse than sat under cw-20 by 41.0 points (over seeds, p " in text
    assert "No significant difference under autoattack: lrat-saa and sat (differences below" in text
    assert "Of the paper's 8 differences" in text
    alone = make_table(
        "table1", {"lrat-saa": [evidence("lrat-saa", 0, (0.6, 0.6, 0.5), folds=True)]}, TABLE_1,
        source="digits",
    )  # fmt: skip
    assert "needs two rows with a seed in common" in table_text.conclusion(alone)


def test_the_paper_stands_beside_every_column_that_it_has() -> None:
    header, sat, gairat, _ = table_text.scores(table(folds=True))
    assert header == [
        *("", "natural", "paper", "pgd-20", "paper", "cw-20", "paper", "autoattack", "paper"),
        *("worst case", "seeds"),
    ]
    assert sat[2:9:2] == ["83.17", "51.14", "49.95", "46.12"]
    assert gairat[-1] == "0 1 2"
    header, lost, _ = table_text.differences(table(folds=True))
    cells = dict(zip(header, lost, strict=True))
    assert cells["cw-20"].startswith("−41.0 [")
    assert lost[1] == "sat"
    assert lost[3:10:2] == ["−3.5", "+9.7", "−11.3", "−14.0"]


def test_masking_is_counted_over_runs() -> None:
    (_, sat, gairat, _) = table_text.costs(table(folds=True))
    assert sat[-2:] == ["not run 3/3", "none"]
    assert gairat[-2:] == ["failed 3/3", "gap 3/3"]
    assert [row[3] for row in (sat, gairat)] == ["1.0", "1.0"]


def test_the_record_survives_json_and_holds_every_run() -> None:
    record = json.loads(json.dumps(table(folds=True).record(), allow_nan=False))
    sat = record["rows"][0]
    assert [run["seed"] for run in sat["runs"]] == [0, 1, 2]
    assert sat["runs"][0]["right"]["pgd-20"] == {"images": 120, "of": IMAGES}
    assert sat["paper"]["pgd"] == 51.14
    assert record["missing"] == ["lrat-cw"]
    assert {each["group"] for each in record["contrasts"]} == {"gairat", "lrat-saa"}
