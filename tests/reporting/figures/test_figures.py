"""Figures: files that are there, show something, and take any name as it is."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image

from experiments.commands import python
from lrat.errors import RunFolderError, SettingError
from lrat.reporting.figures import (
    AttackPicture,
    Drawn,
    PathPicture,
    security_curve_figure,
    why_figure,
)
from lrat.reporting.figures.style import COLUMN, DPI


def curve(**changed: Any) -> dict[str, Any]:
    """What ``Curve.as_dict`` gives."""
    accuracy = [0.9, 0.7, 0.3, 0.1]
    return {
        "attack": "pgd-20",
        "settings": "PGD(steps=20)",
        "norm": "Linf",
        "max_epsilon": 0.3,
        "levels": 3,
        "seed": 0,
        "n": 100,
        "epsilon": [0.0, 0.1, 0.2, 0.3],
        "accuracy": accuracy,
        "low": [value - 0.05 for value in accuracy],
        "high": [value + 0.05 for value in accuracy],
        "area": 0.5,
        "mean_epsilon": 0.15,
        "median_epsilon": 0.2,
        "censored": 0.1,
        "trained_epsilon": 0.1,
        **changed,
    }


def pixels(drawn: Drawn) -> np.ndarray[Any, Any]:
    """The PNG as [H W 4], after checking that it and the PDF are there and hold something."""
    assert drawn.pdf.read_bytes().startswith(b"%PDF")
    shown: np.ndarray[Any, Any] = imread(drawn.png)
    assert shown[..., :3].std() > 0.02, "the picture is blank"
    return shown


def test_a_curve_fits_a_column_and_its_caption_says_how_it_was_made(tmp_path: Path) -> None:
    drawn = security_curve_figure({"a": curve(), "b": curve(n=50)}, tmp_path / "deep" / "curve")
    assert pixels(drawn).shape[1] == round(COLUMN * DPI)
    for words in ("seed 0", "For a n 100 images", "For b n 50 images", "PGD(steps=20)", "Wilson"):
        assert words in drawn.caption
    assert drawn.pdf.with_suffix(".txt").read_text() == drawn.caption + "\n"
    with Image.open(drawn.png) as picture:
        assert picture.text["Description"] == drawn.caption


def test_every_curve_is_seen(tmp_path: Path) -> None:
    one = security_curve_figure({"a": curve(), "b": curve()}, tmp_path / "one")
    lower = curve(accuracy=[0.5, 0.2, 0.1, 0.0])
    two = security_curve_figure({"a": curve(), "b": lower}, tmp_path / "two")
    assert not np.array_equal(pixels(one), pixels(two))


def test_the_same_curve_gives_the_same_files(tmp_path: Path) -> None:
    first = security_curve_figure({"a": curve()}, tmp_path / "first.png")
    second = security_curve_figure({"a": curve()}, tmp_path / "second.pdf")
    assert first.pdf == tmp_path / "first.pdf"
    assert first.png.read_bytes() == second.png.read_bytes()
    assert first.pdf.read_bytes() == second.pdf.read_bytes()


NAMES = ("_hidden", "$x", r"$\frac{$", "a_b^c", "é 日本", "x" * 300, " ")


def test_any_name_is_shown_as_it_is(tmp_path: Path) -> None:
    drawn = security_curve_figure({name: curve() for name in NAMES}, tmp_path / "curve")
    assert pixels(drawn).shape[1] == round(COLUMN * DPI), "long names do not widen it"
    clean = np.zeros((1, 4, 4), np.float32)
    attacks = [
        AttackPicture(name=name, image=clean + 0.5, words=name, fooled=False, paths=[])
        for name in NAMES[-3:]
    ]
    shares = [(name, 1 / len(NAMES)) for name in NAMES]
    pixels(why_figure(clean, "$", shares, attacks, tmp_path / "why", caption="$"))


def test_a_hidden_name_stands_in_the_legend(tmp_path: Path) -> None:
    hidden = security_curve_figure({"_hidden": curve()}, tmp_path / "hidden")
    other = security_curve_figure({"_hiddem": curve()}, tmp_path / "other")
    assert not np.array_equal(pixels(hidden), pixels(other))


def test_what_a_curve_figure_refuses(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no curve"):
        security_curve_figure({}, tmp_path / "curve")
    with pytest.raises(SettingError, match="L2 and Linf have no common axis"):
        security_curve_figure({"a": curve(), "b": curve(norm="L2")}, tmp_path / "curve")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write"):
        security_curve_figure({"a": curve()}, tmp_path / "file" / "curve")


def test_a_users_matplotlib_settings_neither_matter_nor_change(tmp_path: Path) -> None:
    plain = security_curve_figure({"a": curve()}, tmp_path / "plain")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        under = security_curve_figure({"a": curve()}, tmp_path / "under")
        assert matplotlib.rcParams["font.size"] == 30
    assert plain.png.read_bytes() == under.png.read_bytes()


Shape = tuple[int, int, int]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 224, 160), (2, 4, 4)])
def test_why_shows_images_of_any_kind(shape: Shape, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    clean = random.random(shape).astype(np.float32)
    changed = (clean + 0.1 * np.sign(random.normal(size=shape))).clip(0, 1).astype(np.float32)
    paths = [
        PathPicture(margin=[2.0, 0.5, -1.0], forward=[0, 1, 2], failure=2),
        PathPicture(margin=[2.0], forward=[0], failure=None),
    ]
    fooled = AttackPicture(name="pgd", image=changed, words="3", fooled=True, paths=paths)
    unseen = AttackPicture(name="transfer", image=clean, words="2", fooled=False, paths=[])

    def draw(*attacks: AttackPicture) -> np.ndarray[Any, Any]:
        shares = [("2 (label)", 0.7), ("3", 0.3)]
        return pixels(
            why_figure(clean, "clean", shares, attacks, tmp_path / "why", caption="n 1, seed 0")
        )

    alone, with_attacks = draw(), draw(fooled, unseen)
    assert with_attacks.shape[0] > alone.shape[0]


def test_figures_load_no_torch() -> None:
    program = (
        "import sys, lrat.reporting.figures; print({'torch', 'matplotlib'} & set(sys.modules))"
    )
    assert python(program) == "set()\n"
