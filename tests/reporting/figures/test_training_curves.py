"""Accuracy per epoch: every line, band and mark is seen, also of one epoch and of odd names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrat.errors import SettingError
from lrat.reporting.figures import AccuracyCurve, Mark, accuracy_figure, accuracy_limits
from lrat.reporting.figures.style import COLUMN, colour_of
from reporting.figures.pictures import ODD_NAMES, differ, has_colour, pixels


def curve(name: str = "pgd-20", *, epochs: int = 5, seeds: int = 1, at: float = 0.5) -> Any:
    rising = at + np.linspace(0, 0.1, epochs)
    runs = np.stack([rising + 0.02 * seed for seed in range(seeds)])
    value = runs.mean(0)
    return AccuracyCurve(
        name=name,
        epoch=np.arange(1, epochs + 1),
        runs=runs,
        value=value,
        low=value - 0.03,
        high=value + 0.03,
    )


def test_each_attack_has_its_line_in_its_colour(tmp_path: Path) -> None:
    both = [curve("pgd-20"), curve("cw-20", at=0.3)]
    shown = pixels(accuracy_figure(both, tmp_path / "f", caption="n 10, seed 0"), COLUMN)
    assert has_colour(shown, colour_of("pgd-20", 0))
    assert has_colour(shown, colour_of("cw-20", 1))


def test_an_attack_has_one_colour_in_all_figures() -> None:
    assert colour_of("cw-20", 3) == colour_of("CW", 0) == colour_of("v_cw", 1)
    assert colour_of("cw", 0) != colour_of("pgd", 0)


@pytest.mark.parametrize("epochs", [1, 2, 66])
@pytest.mark.parametrize("seeds", [1, 3])
def test_any_number_of_epochs_and_seeds_is_seen(epochs: int, seeds: int, tmp_path: Path) -> None:
    drawn = accuracy_figure([curve(epochs=epochs, seeds=seeds)], tmp_path / "f", caption="c")
    other = accuracy_figure(
        [curve(epochs=epochs, seeds=seeds, at=0.2)], tmp_path / "g", caption="c"
    )
    assert differ(drawn, other, COLUMN)


def test_marks_are_seen_and_those_outside_are_left_out(tmp_path: Path) -> None:
    plain = accuracy_figure([curve()], tmp_path / "a", caption="c")
    inside = accuracy_figure(
        [curve()], tmp_path / "b", caption="c", marks=[Mark(epoch=3, words="x")]
    )
    outside = accuracy_figure(
        [curve()], tmp_path / "c", caption="c", marks=[Mark(epoch=40, words="x")]
    )
    assert differ(plain, inside, COLUMN)
    assert not differ(plain, outside, COLUMN)


@pytest.mark.parametrize(("epoch", "before"), [(2, False), (5, True), (11, True)])
def test_words_on_a_mark_stand_where_the_next_line_is_farther(
    epoch: int, before: bool, tmp_path: Path
) -> None:
    def drawn(*epochs: int, words: str = "") -> np.ndarray[Any, Any]:
        marks = [Mark(epoch=each, words=words if each == epoch else "") for each in epochs]
        figure = accuracy_figure([curve(epochs=12)], tmp_path / "f", caption="c", marks=marks)
        return pixels(figure, COLUMN)

    def columns(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.flatnonzero((first != second).any(axis=(0, 2)))

    every = sorted({8, epoch})
    without = [each for each in every if each != epoch]
    line = columns(drawn(*without), drawn(*every)).mean()
    words = columns(drawn(*every), drawn(*every, words="weights act"))
    assert len(words) > 20
    assert words.max() < line if before else words.min() > line


def test_limits_hold_every_band_and_every_seed() -> None:
    low, high = accuracy_limits([curve(seeds=3, at=0.2), curve(at=0.7)])
    assert low < 17
    assert high > 83


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_is_shown_as_it_is(name: str, tmp_path: Path) -> None:
    marks = [Mark(epoch=2, words="$ _ ^")]
    drawn = accuracy_figure([curve(name)], tmp_path / "f", caption=name, title=name, marks=marks)
    pixels(drawn, COLUMN)


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no epoch"):
        accuracy_figure([], tmp_path / "f", caption="c")
    with pytest.raises(SettingError, match="no epoch"):
        accuracy_figure([curve(epochs=0)], tmp_path / "f", caption="c")
