"""Numbers in words, pictures, the gallery, tables and settings of the report."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lrat.reporting.report.page.charts import cost_figure, security_curves
from lrat.reporting.report.page.gallery import MOST, gallery_data, png, scaling
from lrat.reporting.report.page.results import differing_settings, group_tables, without_group
from lrat.reporting.report.page.training_charts import (
    compared_learning,
    in_open_bin,
    learning_curve,
    spaced,
    weight_histogram,
)
from reporting.report import made


def decoded(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def test_pictures_are_what_they_show() -> None:
    grey = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3, 1)
    assert decoded(png(grey)).tolist() == [[0, 51, 102], [153, 204, 255]]
    colour = np.zeros((2, 2, 3), dtype=np.float32)
    colour[0, 0, 2] = 1.0
    assert decoded(png(colour)).shape == (2, 2, 3)
    assert decoded(png(colour))[0, 0].tolist() == [0, 0, 255]
    four = np.zeros((2, 2, 4), dtype=np.float32)
    four[..., 0] = 1.0
    assert decoded(png(four)).tolist() == [[64, 64], [64, 64]]


def test_large_pictures_are_thinned_and_broken_ones_drawn() -> None:
    assert decoded(png(np.zeros((300, 200, 1), dtype=np.float32))).shape == (100, 67)
    assert decoded(png(np.full((1, 1, 1), np.nan, dtype=np.float32))).tolist() == [[128]]


def test_the_surface_of_a_box_is_black_and_white() -> None:
    scale = scaling("linf", 0.1, largest=0.02)
    image = np.full((1, 3, 1), 0.5, dtype=np.float32)
    moved = image + np.asarray([[[-0.1], [0.0], [0.1]]], dtype=np.float32)
    assert np.allclose(scale.of(moved, image).ravel(), [0.0, 0.5, 1.0], atol=1e-6)
    assert "× 5," in scale.words


def test_elsewhere_the_largest_change_is_black_or_white() -> None:
    scale = scaling("l2", 0.5, largest=0.25)
    assert scale.factor == pytest.approx(2.0)
    assert "0.25" in scale.words
    assert scaling(None, None, largest=0.0).factor == 1.0


def test_a_page_shows_a_fixed_number_of_images_spread_evenly_and_says_so() -> None:
    (whole,) = gallery_data([made.run(0, images=40)])["runs"]
    assert (len(whole["images"]), whole["notes"]) == (40, [])
    for count in (2, 3, 100):
        shown = gallery_data([made.run(k, images=40) for k in range(count)])["runs"]
        assert 1 <= len(shown[0]["images"]) <= max(1, MOST // count)
        assert f"{len(shown[0]['images'])} image" in shown[0]["notes"][0]
        gaps = np.diff([image["index"] for image in shown[0]["images"]])
        assert len(set(gaps.tolist())) <= 1


def test_equal_pictures_are_stored_once() -> None:
    one, two = (gallery_data([made.run(k, images=5) for k in range(n)]) for n in (1, 2))
    assert len(two["pictures"]) == len(one["pictures"])


def test_an_image_that_was_left_alone_has_no_perturbation() -> None:
    data = gallery_data([made.run(0, images=8)])
    wrong = next(each for each in data["runs"][0]["images"] if each["index"] == 6)
    assert all("perturbation" not in each for each in wrong["attacks"].values())
    label, shown = wrong["label"], [k for k, _ in wrong["natural"]["likeliest"]]
    assert label in shown
    assert len(shown) == 4


def test_runs_of_the_same_worst_case_are_all_called_the_best() -> None:
    runs = [made.run(k) for k in range(2)]
    same = replace(runs[1].evaluations[0], worst_case=runs[0].evaluations[0].worst_case)
    runs[1] = replace(runs[1], evaluations=[same])
    (table,) = group_tables(made.report(runs))
    assert [row.standing for row in table.rows] == ["best", "best"]


def test_rows_follow_the_group_and_know_the_best() -> None:
    runs = [made.run(k) for k in range(6)]
    record = made.report(runs)
    backwards = replace(record.groups[0], runs=[run.name for run in reversed(runs)])
    (table,) = group_tables(replace(record, groups=[backwards]))
    assert [row.run.name for row in table.rows] == backwards.runs
    assert [row.standing for row in table.rows][:2] == [
        "best",
        "no significant difference from the best",
    ]
    assert table.rows[-1].standing == ""
    assert table.columns == ["natural", "pgd-20", "cw-20", "autoattack", "worst case"]
    assert table.matrices[0].attack == "worst case"


def test_matrices_are_antisymmetric() -> None:
    (table,) = group_tables(made.report([made.run(k) for k in range(6)]))
    cells = table.matrices[0].cells
    upper, lower = cells[0][5], cells[5][0]
    assert (upper.difference, upper.low, upper.high, upper.sign) == (0.05, -0.02, 0.05, 1)
    assert (lower.difference, lower.low, lower.high, lower.sign) == (-0.05, -0.05, 0.02, -1)
    assert cells[0][1].sign == 0
    assert cells[2][2].diagonal


def test_the_corrected_p_is_shown_where_there_is_one() -> None:
    record = made.report([made.run(0), made.run(1)])
    pairs = [
        pair._replace(contrast=replace(pair.contrast, p_adjusted=0.5))
        for pair in record.groups[0].pairs
    ]
    (table,) = group_tables(replace(record, groups=[replace(record.groups[0], pairs=pairs)]))
    assert table.corrected
    contrast = table.matrices[0].cells[0][1].contrast
    assert contrast is not None
    assert contrast.p_of_verdict == 0.5


def test_runs_without_a_group_are_found() -> None:
    runs = [made.run(0), made.run(1, group="elsewhere")]
    record = made.report(runs, [made.group(runs)])
    assert [place for place, _ in without_group(record)] == [1]


def test_settings_that_differ() -> None:
    runs = [made.run(0), made.run(1)]
    runs[1] = replace(runs[1], config="method: {name: gairat}\nthreat: linf:0.2\nnew: [1, 2]\n")
    found = dict(differing_settings(runs))
    assert found == {
        "method.name": ["sat", "gairat"],
        "seed": ["0", "–"],
        "new": ["–", "[1, 2]"],
    }
    assert differing_settings([replace(runs[0], config="{")]) == []
    assert differing_settings([replace(runs[0], config="[1]"), runs[0]])


def test_security_curves_are_drawn_where_they_can_be_compared() -> None:
    runs = [made.run(0), made.run(1), made.run(2, data="mnist")]
    figures = dict(security_curves(made.report(runs)))
    assert set(figures) == {"digits, apgd-ce, linf", "mnist, apgd-ce, linf"}
    lines = [each for each in figures["digits, apgd-ce, linf"].data if each.get("meta") != "band"]
    assert [each["name"] for each in lines] == ["sat-seed-0", "gairat-seed-0"]
    assert lines[0]["y"][0] == 97.0


def test_a_learning_curve_marks_what_was_selected_and_where_it_overfits() -> None:
    figure = learning_curve(made.run(0, trained=6))
    assert [each["x0"] for each in figure.layout["shapes"]] == [4, 6]
    assert [each["name"] for each in figure.data] == [
        "training, clean",
        "training, under attack",
        "held out, pgd-10",
        "monitored, pgd-20",
        "monitored, cw-20",
    ]
    assert learning_curve(made.run(1, trained=1)).layout["xaxis"]["range"] == [0.5, 1.5]


def test_learning_is_compared_on_the_same_data_under_the_same_threat() -> None:
    runs = [made.run(k) for k in range(3)]
    assert [name for name, _ in compared_learning(made.report(runs))] == [
        "monitored, pgd-20",
        "monitored, cw-20",
        "held out, pgd-10",
        "training, under attack",
        "training, clean",
    ]
    runs[1] = replace(runs[1], threat="l2:0.5")
    runs.append(made.run(3, data="mnist"))
    figures = dict(compared_learning(made.report(runs)))
    assert {name.split("; ")[1] for name in figures} == {f"digits, {runs[0].threat}"}
    for figure in figures.values():
        assert [each["name"] for each in figure.data] == [runs[0].name, runs[2].name]


def test_histograms_are_of_few_epochs_with_both_ends() -> None:
    assert spaced(3, 5) == [0, 1, 2]
    assert spaced(66, 5) == [0, 16, 32, 49, 65]
    run = made.run(0, trained=30)
    figure = weight_histogram(run, run.weights[0])
    assert [each["name"] for each in figure.data][:: len(figure.data) - 1] == [
        "epoch 1",
        "epoch 30",
    ]
    for trace in figure.data:
        assert sum(trace["y"][:-1]) == pytest.approx(100, abs=0.1)


def test_a_bin_without_end_is_drawn_and_named() -> None:
    run = made.run(0, trained=2)
    edges, counts = [0.0, 1.0, 2.0, float("inf")], [[5, 3, 2], [5, 3, 2]]
    term = replace(run.weights[0], edges=edges, counts=counts)
    figure = weight_histogram(run, term)
    assert figure.data[0]["x"] == [0, 1, 2, 2.2]
    assert figure.data[0]["y"] == [50, 30, 20, 20]
    assert [each["text"] for each in figure.layout["annotations"]] == ["2 and more"]
    assert in_open_bin(term) == pytest.approx(0.2)
    assert in_open_bin(run.weights[0]) == 0


def test_cost_is_drawn_where_it_differs() -> None:
    (table,) = group_tables(made.report([made.run(0), made.run(1)]))
    figure = cost_figure(table)
    assert figure is not None
    assert [each["x"] for each in figure.data] == [[11.0], [21.0]]
    (alike,) = group_tables(made.report([made.run(0), made.run(0, name="again")]))
    assert cost_figure(alike) is None
