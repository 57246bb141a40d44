"""What tests of figures look at: files that hold something, and text that lies inside them."""

from typing import Any

import numpy as np
from matplotlib.image import imread

from lrat.reporting.figures import Drawn
from lrat.reporting.figures.style import DPI

ODD_NAMES = ("_hidden", "$x", r"$\frac{$", "a_b^c", "<b>&amp;", "é 日本", "x" * 300)
"""Names with which LaTeX, HTML and legends have their troubles."""


def pixels(drawn: Drawn, width: float) -> np.ndarray[Any, Any]:
    """The PNG as [H W 4], after checking the files: something drawn, the caption beside it, and as
    wide as asked for, in inches."""
    assert drawn.pdf.read_bytes().startswith(b"%PDF")
    assert drawn.pdf.with_suffix(".txt").read_text() == drawn.caption + "\n"
    shown: np.ndarray[Any, Any] = imread(drawn.png)
    assert shown[..., :3].std() > 0.02, "the picture is blank"
    assert shown.shape[1] == round(width * DPI), "as wide as asked for, whatever the names"
    return shown


def differ(first: Drawn, second: Drawn, width: float) -> bool:
    """Whether two drawings can be told apart."""
    return not np.array_equal(pixels(first, width), pixels(second, width))


def has_colour(shown: np.ndarray[Any, Any], colour: str) -> bool:
    """Whether a fair number of pixels have this colour, as ``#D55E00``."""
    wanted = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    close = (np.abs(shown[..., :3] - np.asarray(wanted)) < 0.02).all(-1)
    return bool(close.sum() > 20)
