"""Test accuracy per epoch under several attacks: the paper's Figures 1b, 1c and 6."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import SettingError
from lrat.reporting.figures import style

_HEIGHT = 2.2
_FEW = 12
"""Up to so many epochs each is a marker too; a single one could not be seen otherwise."""
_MARKERS = "osD^vP"
_STRIP = 0.26
_MARK_ROWS = 3


@dataclass(frozen=True, kw_only=True)
class AccuracyCurve:
    """Accuracy under one attack: ``epoch`` [E] counted from 1, ``runs`` [S E] of each seed, their
    mean ``value`` [E] with the ends of its interval ``low`` and ``high`` [E]; fractions of 1."""

    name: str
    epoch: npt.NDArray[Any]
    runs: npt.NDArray[Any]
    value: npt.NDArray[Any]
    low: npt.NDArray[Any]
    high: npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something that happens at an epoch, as a vertical line with a word or two."""

    epoch: float
    words: str


def accuracy_limits(curves: Sequence[AccuracyCurve]) -> tuple[float, float]:
    """Limits in per cent that show all of these curves: those of figures to be compared."""
    low = min(float(min(curve.low.min(), curve.runs.min())) for curve in curves)
    high = max(float(max(curve.high.max(), curve.runs.max())) for curve in curves)
    return style.widened(100 * low, 100 * high)


def accuracy_figure(
    curves: Sequence[AccuracyCurve],
    out: Path,
    *,
    caption: str,
    title: str = "",
    marks: Sequence[Mark] = (),
    limits: tuple[float, float] | None = None,
) -> style.Drawn:
    """A line with its interval per attack; single seeds are thin where there are several.

    ``limits``: of the accuracy axis in per cent, None for what the curves need. ``out``: the files'
    common path without ending.
    """
    if not curves or any(len(curve.epoch) == 0 for curve in curves):
        raise SettingError("no epoch to draw: name at least one curve with at least one epoch")
    with style.our_style():
        figure = style.new_figure(style.COLUMN, _HEIGHT)
        axes = figure.add_subplot()
        lines = [_line(axes, index, curve) for index, curve in enumerate(curves)]
        every = np.concatenate([curve.epoch for curve in curves])
        axes.set_xlim(*style.widened(float(every.min()), float(every.max()), 0.03))
        marked = _marks(axes, marks)
        low, high = limits or accuracy_limits(curves)
        # Words on marks have a strip of their own below all curves.
        axes.set_ylim(low - (_STRIP * (high - low) if marked else 0), high)
        style.whole_numbers(axes.xaxis)
        axes.set_xlabel("epoch")
        axes.set_ylabel("test accuracy (%)")
        style.light_grid(axes, "y")
        names = [
            f"{style.shortened(curve.name)}: {100 * curve.value[-1]:.1f} %" for curve in curves
        ]
        # Above the axes: no corner of them is sure to be empty.
        style.legend(
            axes,
            lines,
            names,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            borderaxespad=0.2,
            ncols=2 if max(map(len, names)) <= 16 else 1,
            title=style.shortened(title, 48) or None,
            title_fontsize=8,
            alignment="left",
            handlelength=2.4,
        )
        return style.save(figure, out, caption)


def _line(axes: Any, index: int, curve: AccuracyCurve) -> Any:
    colour = style.colour_of(curve.name, index)
    axes.fill_between(
        curve.epoch, 100 * curve.low, 100 * curve.high, color=colour, alpha=0.18, linewidth=0
    )
    if len(curve.epoch) == 1:
        low, high = (100 * abs(end - curve.value) for end in (curve.low, curve.high))
        axes.errorbar(curve.epoch, 100 * curve.value, yerr=(low, high), color=colour, capsize=2)
    if len(curve.runs) > 1:
        for run in curve.runs:
            axes.plot(curve.epoch, 100 * run, color=colour, linewidth=0.5, alpha=0.6)
    few = len(curve.epoch) <= _FEW
    (line,) = axes.plot(
        curve.epoch,
        100 * curve.value,
        color=colour,
        linestyle=style.DASHES[index % len(style.DASHES)],
        marker=_MARKERS[index % len(_MARKERS)] if few else None,
        markersize=3,
    )
    return line


def _marks(axes: Any, marks: Sequence[Mark]) -> bool:
    """Each epoch a dotted line, what happens there at its foot, on three rows in turn and on the
    side where the next line is farther; returns whether any lies among the epochs shown."""
    first, last = axes.get_xlim()
    shown = [mark for mark in marks if first <= mark.epoch <= last]
    lines = sorted({mark.epoch for mark in shown})
    for epoch in lines:
        axes.axvline(epoch, color="black", linewidth=0.7, linestyle=":")
    edges = [first, *lines, last]
    for index, mark in enumerate(sorted(shown, key=lambda mark: mark.epoch)):
        line = lines.index(mark.epoch) + 1
        right = edges[line] - edges[line - 1] > edges[line + 1] - edges[line]
        axes.annotate(
            mark.words,
            (mark.epoch, 0.03 + 0.07 * (index % _MARK_ROWS)),
            xycoords=("data", "axes fraction"),
            xytext=(-2 if right else 2, 0),
            textcoords="offset points",
            fontsize=7,
            horizontalalignment="right" if right else "left",
            verticalalignment="bottom",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0},
        )
    return bool(shown)
