"""All views together: pairs, the union, other starts, images that are right when clean."""

import numpy as np
import pytest

from lrat.analysis import agreement, margin_distributions, top_sets
from lrat.analysis.views import Columns
from lrat.errors import SettingError


def views(n: int = 50, seed: int = 0) -> Columns:
    draw = np.random.default_rng(seed)
    v_pgd = draw.random(n).astype(np.float32)
    margin = (4 * v_pgd - 1).astype(np.float32)
    return {
        "index": np.arange(n),
        "label": np.arange(n) % 3,
        "correct": np.arange(n) % 5 != 0,
        "v_gd": (10 * v_pgd).astype(np.int64),
        "v_pgd": v_pgd,
        "v_cw": draw.permutation(margin),
        "margin_clean": margin + 1,
        "margin_pgd": margin,
        "t_clean": np.ones(n, dtype=np.float32),
    }


def test_a_view_agrees_with_a_coarser_one_of_itself_and_not_with_chance() -> None:
    record = agreement(views(), 0.2)
    pairs = record["pairs"]
    assert record["size"] == 10
    assert pairs["v_gd-v_pgd"]["jaccard"] == 1
    assert pairs["v_gd-v_pgd"]["jaccard_random_ties"] <= 1
    assert pairs["v_pgd-v_cw"]["jaccard"] < 0.5
    assert pairs["v_gd-v_pgd"]["spearman"] > 0.95 > abs(pairs["v_pgd-v_cw"]["spearman"])
    assert "jaccard_random_ties" not in pairs["v_pgd-v_cw"]
    assert record["union"]["shared"] == pairs["v_pgd-v_cw"]["shared"]
    assert record["views"]["v_gd"]["distinct"] <= 10


def test_top_sets_are_those_of_the_overlap() -> None:
    table = views()
    sets = top_sets(table, 0.2)
    assert {name: int(each.sum()) for name, each in sets.items()} == dict.fromkeys(
        ("top_gd", "top_pgd", "top_cw"), 10
    )
    shared = int((sets["top_pgd"] & sets["top_cw"]).sum())
    assert agreement(table, 0.2)["pairs"]["v_pgd-v_cw"]["shared"] == shared
    assert table["v_pgd"][sets["top_pgd"]].max() < table["v_pgd"][~sets["top_pgd"]].min()


def test_images_right_when_clean_are_compared_apart() -> None:
    record = agreement(views(), 0.2)["right_when_clean"]
    assert (record["n"], record["size"]) == (40, 8)
    wrong = {**views(), "correct": np.zeros(50, dtype=bool)}
    assert agreement(wrong, 0.2)["right_when_clean"] is None


def test_the_same_measure_for_both_attacks() -> None:
    table = views()
    table["v_cw"] = table["margin_pgd"] ** 3  # another scale, the same order
    assert agreement(table, 0.2)["pairs"]["margin_pgd-v_cw"]["jaccard"] == 1


def test_other_starts_are_compared_view_by_view() -> None:
    table = views()
    again = {f"{name}_again": table[name] for name in ("v_gd", "v_pgd", "v_cw")}
    record = agreement({**table, **again}, 0.2)["again"]
    assert {name: pair["jaccard"] for name, pair in record.items()} == dict.fromkeys(
        ("v_gd", "v_pgd", "v_cw"), 1.0
    )
    assert "again" not in agreement(table, 0.2)


@pytest.mark.parametrize("n", [1, 2])
def test_hardly_any_images(n: int) -> None:
    record = agreement(views(n), 0.2)
    assert record["size"] == 1
    assert record["pairs"]["v_gd-v_pgd"]["jaccard"] == 1


def test_a_share_that_makes_no_set_is_refused() -> None:
    with pytest.raises(SettingError, match=r"top=1"):
        agreement(views(), 1.0)


def test_margins_are_told_by_right_and_wrong() -> None:
    table = views()
    record = margin_distributions(table)
    assert set(record) == {"margin_clean", "margin_pgd", "t_clean"}
    clean = record["margin_clean"]
    assert (clean["all"]["n"], clean["right"]["n"], clean["wrong"]["n"]) == (50, 40, 10)
    assert clean["all"]["mean"] == pytest.approx(table["margin_clean"].mean(), rel=1e-5)
    assert clean["all"]["quantiles"]["0.5"] == pytest.approx(np.median(table["margin_clean"]))
    assert record["margin_pgd"]["positive"] == np.mean(table["margin_pgd"] > 0)
    none_wrong = {**table, "correct": np.ones(50, dtype=bool)}
    assert margin_distributions(none_wrong)["t_clean"]["wrong"] is None
