"""What the page's Plotly figures share: lines with bands, colours, axes, names made harmless."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lrat.reporting.figures.style import OKABE_ITO
from lrat.reporting.report.records import Share

COLOURS = OKABE_ITO[:6]
"""Without black, which a dark page swallows."""
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star")
MARK = "#8a8a8a"
"""A grey that is seen on white and on black."""
_LONGEST = 40


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A Plotly figure as plain values; ``height`` in pixels. ``label`` says what it shows, for
    those who do not see it."""

    label: str
    data: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    height: int = 360

    @property
    def plain(self) -> dict[str, Any]:
        """As the page's script reads it."""
        return {"data": self.data, "layout": self.layout, "height": self.height}


def text(name: str) -> str:
    """A name as Plotly shows it literally: Plotly reads tags, and ``%{...}`` in templates."""
    shown = name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
    return html.escape(shown, quote=False).replace("%{", "% {")


def colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def dash(place: int) -> str:
    """Another dash for every round of colours, so that thirty lines differ."""
    return DASHES[(place // len(COLOURS)) % len(DASHES)]


def symbol(place: int) -> str:
    return SYMBOLS[place % len(SYMBOLS)]


def rounded(values: Sequence[float | None], digits: int = 3) -> list[float | None]:
    """Numbers short enough for a page; None where there is none to draw."""
    return [
        None if value is None or not math.isfinite(value) else round(value, digits)
        for value in values
    ]


def in_percent(values: Sequence[float | None]) -> list[float | None]:
    return rounded([None if value is None else 100 * value for value in values], 2)


def line(
    name: str,
    x: Sequence[float],
    y: Sequence[float | None],
    place: int,
    *,
    markers: bool = True,
    **more: Any,
) -> dict[str, Any]:
    """A line of the colour, dash and symbol of its ``place``."""
    return {
        "type": "scatter",
        "mode": "lines+markers" if markers else "lines",
        "name": text(name),
        "x": list(x),
        "y": list(y),
        "line": {"color": colour(place), "width": 2, "dash": dash(place)},
        "marker": {"symbol": symbol(place), "size": 6},
        "legendgroup": str(place),
        **more,
    }


def band(
    x: Sequence[float], shares: Sequence[Share], place: int, *, faint: bool = False
) -> dict[str, Any]:
    """The intervals around a line, in per cent, as an area that legend and cursor pass over;
    ``faint`` where many overlap."""
    low = in_percent([share.low for share in shares])
    high = in_percent([share.high for share in shares])
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *reversed(x)],
        "y": [*high, *reversed(low)],
        "fill": "toself",
        "fillcolor": f"{colour(place)}{'12' if faint else '2b'}",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": str(place),
        "meta": "band",
    }


def vertical(x: float) -> dict[str, Any]:
    """A dotted vertical line over the whole height."""
    return {
        "type": "line",
        "x0": x,
        "x1": x,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": MARK, "width": 1.5, "dash": "dot"},
    }


def note(x: float, words: str, *, row: int = 0, right: bool = False) -> dict[str, Any]:
    """Words at a vertical line, above the drawing, to its right or, near the end, its left."""
    return {
        "x": x,
        "y": 1,
        "yref": "paper",
        "text": words,
        "showarrow": False,
        "xanchor": "right" if right else "left",
        "yanchor": "bottom",
        "yshift": 1 + 15 * row,
        "font": {"size": 12},
    }


def axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title}, **more}
