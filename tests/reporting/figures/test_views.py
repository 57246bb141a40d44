"""Vulnerability, margins, overlaps, t-SNE: what each view says is seen and agrees with itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrat.errors import SettingError
from lrat.reporting.figures import (
    Drawn,
    View,
    agreement_figure,
    agreement_page,
    agreements,
    classes_figure,
    margin_figure,
    overlap_figure,
    tail_words,
    vulnerability_figure,
    vulnerability_page,
)
from lrat.reporting.figures.style import COLUMN, CONSISTENT, INCONSISTENT, PAGE, colour_of
from reporting.figures.pictures import ODD_NAMES, differ, has_colour, pixels

RANDOM = np.random.default_rng(0)


def view(name: str, values: Any, count: int | None = None, **about: Any) -> View:
    values = np.asarray(values, dtype=np.float64)
    top = np.zeros(len(values), dtype=bool)
    top[np.argsort(values)[: count or max(1, len(values) // 5)]] = True
    return View(name=name, values=values, top=top, label=f"V_{name}", **about)


PGD = view("pgd", RANDOM.random(200), bounds=(0.0, 1.0))
CW = view("cw", RANDOM.normal(size=200))


def test_the_own_and_the_other_views_most_vulnerable_have_their_colours(tmp_path: Path) -> None:
    alone = vulnerability_figure(PGD, None, tmp_path / "a", caption="c", letter="a")
    own = vulnerability_figure(PGD, PGD, tmp_path / "b", caption="c", letter="b")
    other = vulnerability_figure(PGD, CW, tmp_path / "c", caption="c", letter="c")
    assert not has_colour(pixels(alone, COLUMN), colour_of("pgd", 0))
    assert has_colour(pixels(own, COLUMN), colour_of("pgd", 0))
    assert has_colour(pixels(other, COLUMN), colour_of("cw", 1))


def test_six_panels_fill_a_page(tmp_path: Path) -> None:
    shown = pixels(vulnerability_page(PGD, CW, tmp_path / "f", caption="c"), PAGE)
    for row in np.array_split(shown, 2):
        for panel in np.array_split(row, 3, axis=1):
            assert panel[..., :3].std() > 0.02


@pytest.mark.parametrize("values", [[0.5], [0.3, 0.3], [0.0] * 20, [-1e6, 1e6, 0.0]])
def test_few_and_equal_values_are_drawn(values: list[float], tmp_path: Path) -> None:
    odd = view("cw", values)
    pixels(vulnerability_page(odd, odd, tmp_path / "f", caption="c"), PAGE)
    pixels(
        margin_figure({"clean": odd.values, "cw": odd.values}, tmp_path / "g", caption="c"), COLUMN
    )


def test_what_lies_beyond_an_axis_is_said_and_stays_in_the_outermost_bars() -> None:
    far = view("cw", [*RANDOM.normal(size=2000), 1e6])
    assert "values of V_cw beyond the axis" in tail_words([far])
    assert tail_words([PGD]) == ""


def test_views_of_other_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="views of 1 and 200 images"):
        vulnerability_figure(PGD, view("cw", [1.0]), tmp_path / "f", caption="c")
    with pytest.raises(SettingError, match="no image"):
        vulnerability_figure(
            View(name="cw", values=np.empty(0), top=np.empty(0, dtype=bool), label="V"),
            None,
            tmp_path / "f",
            caption="c",
        )


def masks(**members: list[int]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.isin(np.arange(6), held) for name, held in members.items()}


def test_agreements_come_in_the_papers_order_and_count_what_is_shared() -> None:
    union, first, second, third = agreements(masks(gd=[0, 1], pgd=[0, 2], cw=[0, 1]))
    names = ["union: GD – PGD – CW", "GD – CW", "GD – PGD", "PGD – CW"]
    assert [each.name for each in (union, first, second, third)] == names
    # Red: in all three; blue: in one or two.
    assert union.consistent.nonzero()[0].tolist() == [0]
    assert union.inconsistent.nonzero()[0].tolist() == [1, 2]
    assert first.inconsistent.sum() == 0
    assert str(second) == "GD – PGD: 1 of 3 consistent"


def test_two_views_have_one_agreement() -> None:
    assert [each.name for each in agreements(masks(pgd=[0], cw=[1]))] == ["PGD – CW"]


def test_consistent_is_red_and_inconsistent_is_blue(tmp_path: Path) -> None:
    points = RANDOM.normal(size=(6, 2))
    same, other = agreements(masks(pgd=[0, 1], cw=[0, 1])), agreements(masks(pgd=[0], cw=[1]))
    agreeing = pixels(agreement_figure(points, same[0], tmp_path / "a", caption="c"), COLUMN)
    differing = pixels(agreement_figure(points, other[0], tmp_path / "b", caption="c"), COLUMN)
    # The key below shows both colours, the map above it only what there is.
    above = slice(0, int(0.85 * len(agreeing)))
    assert has_colour(agreeing[above], CONSISTENT)
    assert not has_colour(agreeing[above], INCONSISTENT)
    assert has_colour(differing[above], INCONSISTENT)
    assert not has_colour(differing[above], CONSISTENT)


@pytest.mark.parametrize("count", [1, 2, 3000])
def test_any_number_of_points_is_drawn(count: int, tmp_path: Path) -> None:
    points = np.zeros((count, 2)) if count == 2 else RANDOM.normal(size=(count, 2))
    sets = {name: RANDOM.random(count) < 0.2 for name in ("gd", "pgd", "cw")}
    pixels(agreement_page(points, agreements(sets), tmp_path / "f", caption="c"), PAGE)


@pytest.mark.parametrize("classes", [1, 10, 1000])
def test_classes_are_coloured_and_named_where_there_is_room(classes: int, tmp_path: Path) -> None:
    labels = np.arange(2000) % classes
    points = RANDOM.normal(size=(2000, 2)) + 20 * RANDOM.normal(size=(classes, 2))[labels]

    def drawn(names: list[str], stem: str) -> Drawn:
        return classes_figure(points, labels, names, tmp_path / stem, caption="c")

    named = drawn([(ODD_NAMES * 200)[label] for label in range(classes)], "named")
    unnamed = drawn([""] * classes, "unnamed")
    assert differ(named, unnamed, COLUMN) == (classes <= 20)


def test_an_embedding_without_points_or_with_nan_is_refused(tmp_path: Path) -> None:
    names = ["a"]
    with pytest.raises(SettingError, match="no point"):
        classes_figure(np.empty((0, 2)), np.empty(0), names, tmp_path / "f", caption="c")
    with pytest.raises(SettingError, match="not finite"):
        classes_figure(np.full((2, 2), np.nan), np.zeros(2), names, tmp_path / "f", caption="c")


@pytest.mark.parametrize("count", [2, 3, 14])
def test_overlaps_of_any_number_of_views(count: int, tmp_path: Path) -> None:
    values = np.full((count, count), 0.3)
    np.fill_diagonal(values, 1)
    names = (ODD_NAMES * 2)[:count]

    def drawn(matrix: np.ndarray[Any, Any], stem: str) -> Drawn:
        return overlap_figure(
            names, matrix, values, values, tmp_path / stem, caption="c", chance=0.11
        )

    assert differ(drawn(values, "a"), drawn(values**2, "b"), PAGE)
    pixels(drawn(np.full((count, count), np.nan), "c"), PAGE)


def test_overlaps_of_one_view_are_refused(tmp_path: Path) -> None:
    one = np.ones((1, 1))
    with pytest.raises(SettingError, match="overlaps of 1 views"):
        overlap_figure(["a"], one, one, one, tmp_path / "f", caption="c", chance=0.1)
