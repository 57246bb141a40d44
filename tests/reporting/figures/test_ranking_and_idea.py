"""Rankings of attacks, and the drawing of the method's idea."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrat.errors import SettingError
from lrat.reporting.figures import Instance, Pair, RankedModel, idea_figure, ranking_figure
from lrat.reporting.figures.style import COLUMN, CONSISTENT, INCONSISTENT, PAGE
from reporting.figures.pictures import ODD_NAMES, differ, has_colour, pixels

ATTACKS = ("pgd-20", "cw-20", "saa")


def model(data: str, method: str, *accuracy: float, **about: Any) -> RankedModel:
    return RankedModel(
        data=data, method=method, accuracy=dict(zip(ATTACKS, accuracy, strict=True)), **about
    )


def test_the_strongest_attack_comes_first_and_equal_ones_keep_their_order() -> None:
    assert model("d", "m", 0.5, 0.4, 0.5).order == ["cw-20", "pgd-20", "saa"]


def test_another_ranking_another_figure(tmp_path: Path) -> None:
    one = ranking_figure([model("d", "AT", 0.5, 0.4, 0.3)], tmp_path / "a", caption="c")
    other = ranking_figure([model("d", "AT", 0.4, 0.5, 0.3)], tmp_path / "b", caption="c")
    assert differ(one, other, COLUMN)


def test_ties_are_joined(tmp_path: Path) -> None:
    tied = frozenset({frozenset(("pgd-20", "cw-20"))})
    plain = model("d", "AT", 0.41, 0.4, 0.3)
    joined = model("d", "AT", 0.41, 0.4, 0.3, tied=tied)
    assert differ(
        ranking_figure([plain], tmp_path / "a", caption="c"),
        ranking_figure([joined], tmp_path / "b", caption="c"),
        COLUMN,
    )


@pytest.mark.parametrize("data", [ODD_NAMES[:2], ODD_NAMES[5:]])
def test_several_data_sets_of_any_name_fill_a_page(data: tuple[str, ...], tmp_path: Path) -> None:
    models = [
        model(name, method, *accuracy)
        for name in data
        for method, *accuracy in (
            ("AT", 0.5, 0.4, 0.3),
            ("x" * 200, 0.3, 0.4, 0.5),
            ("$_^", 0, 0, 0),
        )
    ]
    pixels(ranking_figure(models, tmp_path / "f", caption="c"), PAGE)


def test_what_has_no_common_ranking_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no model"):
        ranking_figure([], tmp_path / "f", caption="c")
    other = RankedModel(data="d", method="m", accuracy={"fgsm": 0.5})
    with pytest.raises(SettingError, match="one suite"):
        ranking_figure([model("d", "AT", 0.5, 0.4, 0.3), other], tmp_path / "f", caption="c")


def instance(shape: tuple[int, int, int], *weights: float, name: str = "cat") -> Instance:
    image = np.linspace(0, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    pairs = [
        Pair(attack=attack, image=image, prediction=name, margin=0.1, weight=weight)
        for attack, weight in zip(ATTACKS, weights, strict=False)
    ]
    return Instance(image=image, label=name, pairs=pairs, global_weight=0.7)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 4, 6)])
def test_the_heavier_pairs_are_red_and_the_lighter_blue(
    shape: tuple[int, int, int], tmp_path: Path
) -> None:
    rows = [instance(shape, 0.5, 1.0, 1.5, name=name) for name in ODD_NAMES[:3]]
    shown = pixels(idea_figure(rows, tmp_path / "f", caption="c"), PAGE)
    assert has_colour(shown, CONSISTENT)
    assert has_colour(shown, INCONSISTENT)


def test_one_image_with_one_pair_of_no_weight(tmp_path: Path) -> None:
    pixels(idea_figure([instance((1, 1, 1), 0.0)], tmp_path / "f", caption="c"), PAGE)


def test_an_idea_of_nothing_is_refused(tmp_path: Path) -> None:
    for instances in ([], [instance((1, 2, 2))]):
        with pytest.raises(SettingError, match="nothing to draw"):
            idea_figure(instances, tmp_path / "f", caption="c")
