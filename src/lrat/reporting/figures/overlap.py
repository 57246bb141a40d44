"""How far views agree on the most vulnerable images: overlaps of sets, and rank correlations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import SettingError
from lrat.reporting.figures.style import PAGE, Drawn, new_figure, our_style, save, shortened

_SIDE = 2.15
_DARK = 0.55
_ONLY_A_FEW = 12


def overlap_figure(
    names: Sequence[str],
    jaccard: npt.NDArray[Any],
    spearman: npt.NDArray[Any],
    kendall: npt.NDArray[Any],
    out: Path,
    *,
    caption: str,
    chance: float,
) -> Drawn:
    """Three matrices [V V] over the views ``names``: Jaccard overlap of the most vulnerable sets,
    beside what ``chance`` would give, and two rank correlations; NaN is shown as a dash."""
    count = len(names)
    if count < 2 or any(each.shape != (count, count) for each in (jaccard, spearman, kendall)):
        raise SettingError(f"overlaps of {count} views need matrices [{count} {count}], count >= 2")
    with our_style():
        figure = new_figure(PAGE, _SIDE + 0.25)
        panels = (
            (jaccard, f"Jaccard overlap (by chance {chance:.2f})", "Blues", 0.0),
            (spearman, "Spearman's ρ", "PuOr_r", -1.0),
            (kendall, "Kendall's τ", "PuOr_r", -1.0),
        )
        for place, (values, title, colours, low) in enumerate(panels):
            axes = figure.add_subplot(1, 3, place + 1)
            _matrix(axes, names, values, colours, low, with_rows=place == 0)
            axes.set_title(title, pad=4)
        return save(figure, out, caption)


def _matrix(
    axes: Any,
    names: Sequence[str],
    values: npt.NDArray[Any],
    colours: str,
    low: float,
    *,
    with_rows: bool,
) -> None:
    axes.imshow(values, cmap=colours, vmin=low, vmax=1)
    places = range(len(names))
    few = len(names) <= _ONLY_A_FEW
    short = [shortened(name, 10) for name in names]
    axes.set_xticks(places if few else [], short if few else [])
    axes.set_yticks(places if few and with_rows else [], short if few and with_rows else [])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    for row in places if few else ():
        for column in places:
            value = float(values[row, column])
            text = f"{value:.2f}" if np.isfinite(value) else "–"
            # Both scales are darkest at their ends.
            dark = np.isfinite(value) and abs(value) > _DARK
            axes.text(
                column,
                row,
                text,
                horizontalalignment="center",
                verticalalignment="center",
                fontsize=8 if len(names) <= 4 else 7,
                color="white" if dark else "black",
            )
