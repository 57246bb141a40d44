"""Histograms of weights: the share below .2 is stated, bars end at .2, epochs are columns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrat.errors import SettingError
from lrat.reporting.figures import (
    WeightEpochs,
    weight_histogram_figure,
    weights_over_epochs_figure,
)
from lrat.reporting.figures.style import COLUMN, CONSISTENT, OKABE_ITO
from lrat.reporting.figures.weights import histogram_edges
from reporting.figures.pictures import ODD_NAMES, differ, has_colour, pixels

GEOMETRY = (1 + np.tanh(-1 + 5 * (1 - 2 * np.arange(11) / 10))) / 2
"""GAIRAT's weights (Eq. 10) for kappa = 0 ... 10 of 10 steps."""


def test_low_weights_are_red_and_the_others_blue(tmp_path: Path) -> None:
    drawn = weight_histogram_figure([np.tile(GEOMETRY, 5)], tmp_path / "f", caption="c")
    shown = pixels(drawn, COLUMN)
    assert has_colour(shown, CONSISTENT)
    assert has_colour(shown, OKABE_ITO[0])


@pytest.mark.parametrize("largest", [1.0, 1.0000001, 2.83, 4.0, 7.5])
def test_a_bar_never_stands_on_both_sides_of_the_threshold(largest: float) -> None:
    edges = histogram_edges(largest, 20)
    assert edges[0] == 0
    assert edges[-1] >= largest * (1 - 1e-6)
    if largest <= 4:
        assert np.isclose(edges, 0.2).any()


@pytest.mark.parametrize("weights", [[0.0], [1.0, 1.0], [1e9, 0.1], [0.2]])
def test_odd_weights_are_drawn(weights: list[float], tmp_path: Path) -> None:
    pixels(weight_histogram_figure([np.asarray(weights)], tmp_path / "f", caption="c"), COLUMN)


def test_seeds_are_whiskers(tmp_path: Path) -> None:
    one = weight_histogram_figure([GEOMETRY], tmp_path / "one", caption="c")
    two = weight_histogram_figure([GEOMETRY, GEOMETRY**2], tmp_path / "two", caption="c")
    assert differ(one, two, COLUMN)


def epochs(term: str = "pgd", *, count: int = 3, inside: int = 2) -> WeightEpochs:
    edges = np.append(np.arange(61) / 20, np.inf)
    counts = np.zeros((count, 61), dtype=int)
    counts[:, inside] = 10
    return WeightEpochs(
        term=term,
        epoch=np.arange(1, count + 1) * 2,
        edges=edges,
        counts=counts,
        below=np.linspace(0, 0.8, count),
        effective=np.linspace(1, 0.5, count),
    )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_epochs_are_columns_of_a_map(count: int, tmp_path: Path) -> None:
    low = weights_over_epochs_figure([epochs(count=count)], tmp_path / "f", caption="c")
    above_all = weights_over_epochs_figure(
        [epochs(count=count, inside=60)], tmp_path / "g", caption="c"
    )
    assert differ(low, above_all, COLUMN)


def test_each_term_has_its_place_whatever_it_is_called(tmp_path: Path) -> None:
    terms = [epochs(name) for name in ODD_NAMES[:3]]
    tall = pixels(weights_over_epochs_figure(terms, tmp_path / "f", caption="c"), COLUMN)
    short = pixels(weights_over_epochs_figure(terms[:1], tmp_path / "g", caption="c"), COLUMN)
    assert tall.shape[0] > 2 * short.shape[0]


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    empty: list[Any] = [[], [np.empty(0)]]
    for weights in empty:
        with pytest.raises(SettingError, match="record_weights"):
            weight_histogram_figure(weights, tmp_path / "f", caption="c")
    with pytest.raises(SettingError, match="record_weights"):
        weights_over_epochs_figure([], tmp_path / "f", caption="c")
