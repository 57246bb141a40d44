"""The page's Plotly figures of evaluated runs, and what all of its figures share.

Lines with bands, colours, axes, and escaped names; then every run at a glance, security
curves, robustness against cost.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lrat.evaluation.curve_result import Curve
from lrat.evaluation.statistics import Proportion
from lrat.reporting.figures.style import OKABE_ITO
from lrat.reporting.report.page.results import GroupTable
from lrat.reporting.report.records import ReportRecord, RunRecord
from lrat.text import counted, number, percent

COLOURS = OKABE_ITO[:6]
"""Without black, which a dark page swallows."""
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star")
MARK = "#8a8a8a"
"""A grey that is seen on white and on black."""
_LONGEST = 40

_ROW = 26
_FRAME = 110
_FEW = 4


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


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def dash(index: int) -> str:
    """Another dash for every round of colours, so that thirty lines differ."""
    return DASHES[(index // len(COLOURS)) % len(DASHES)]


def symbol(index: int) -> str:
    return SYMBOLS[index % len(SYMBOLS)]


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
    index: int,
    *,
    markers: bool = True,
    **more: Any,
) -> dict[str, Any]:
    """A line of the colour, dash and symbol of its ``index``."""
    return {
        "type": "scatter",
        "mode": "lines+markers" if markers else "lines",
        "name": text(name),
        "x": list(x),
        "y": list(y),
        "line": {"color": colour(index), "width": 2, "dash": dash(index)},
        "marker": {"symbol": symbol(index), "size": 6},
        "legendgroup": str(index),
        **more,
    }


def band(
    x: Sequence[float], shares: Sequence[Proportion], index: int, *, faint: bool = False
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
        "fillcolor": f"{colour(index)}{'12' if faint else '2b'}",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": str(index),
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


def overview(table: GroupTable) -> Figure:
    """Every run of a group as a row: its accuracy under each attack, the worst case with its
    interval."""
    names = [text(row.run.name) for row in table.rows]
    traces = []
    for index, attack in enumerate(table.columns):
        worst = index == len(table.columns) - 1
        shares = [row.shares[index] for row in table.rows]
        traces.append(_dots(attack, names, shares, index, worst=worst))
    best, worst_case = table.rows[0].run.name, table.rows[0].evaluation.worst_case
    return Figure(
        label=(
            f"Accuracy of {counted(len(names), 'run')} under each attack; "
            f"{best} leads by worst case with {percent(worst_case.value)}"
        ),
        data=traces,
        layout={
            "xaxis": axis("accuracy (%)"),
            "yaxis": {"autorange": "reversed", "type": "category", "automargin": True},
            "hovermode": "closest",
        },
        height=_FRAME + _ROW * max(len(names), 2),
    )


def _dots(
    attack: str,
    names: Sequence[str],
    shares: Sequence[Proportion | None],
    index: int,
    *,
    worst: bool,
) -> dict[str, object]:
    """Points of one attack; the worst case is solid and in front, with its intervals."""
    known = [(name, share) for name, share in zip(names, shares, strict=True) if share]
    ends = [in_percent([share.low, share.high]) for _, share in known]
    trace: dict[str, object] = {
        "type": "scatter",
        "mode": "markers",
        "name": text(attack),
        "x": in_percent([share.value for _, share in known]),
        "y": [name for name, _ in known],
        "customdata": ends,
        "hovertemplate": "%{x:.1f} % [%{customdata[0]:.1f}, %{customdata[1]:.1f}]",
        "marker": {
            "size": 11 if worst else 9,
            "symbol": "circle" if worst else f"{symbol(index)}-open",
            "color": colour(1) if worst else MARK if index == 0 else colour(_calm(index)),
            "line": {"width": 0 if worst else 1.6},
        },
    }
    if worst:
        trace["error_x"] = {**_ends([share for _, share in known], 1.6), "color": colour(1)}
    return trace


def _ends(shares: Sequence[Proportion], thickness: float) -> dict[str, Any]:
    """Error bars from the ends of intervals."""
    return {
        "type": "data",
        "symmetric": False,
        "array": in_percent([share.high - share.value for share in shares]),
        "arrayminus": in_percent([share.value - share.low for share in shares]),
        "thickness": thickness,
        "width": 4,
    }


def _calm(index: int) -> int:
    """Colours of single attacks: all but the one that the worst case has."""
    return (0, 2, 3, 4, 5)[(index - 1) % 5]


def security_curves(report: ReportRecord) -> list[tuple[str, Figure]]:
    """A titled figure per data set, attack and norm: the robust share at each epsilon."""
    kinds: dict[tuple[str, str, str], list[tuple[int, RunRecord, Curve]]] = {}
    for index, run in enumerate(report.runs):
        for curve in run.curves:
            kind = run.data, curve.attack, curve.norm
            kinds.setdefault(kind, []).append((index, run, curve))
    return [
        (f"{data}, {attack}, {norm}", _security(attack, norm, lines))
        for (data, attack, norm), lines in kinds.items()
    ]


def _security(attack: str, norm: str, lines: Sequence[tuple[int, RunRecord, Curve]]) -> Figure:
    traces = []
    for index, run, curve in lines:
        traces.append(band(curve.epsilons, curve.accuracy, index, faint=len(lines) > _FEW))
        traces.append(
            line(
                run.name,
                curve.epsilons,
                in_percent([share.value for share in curve.accuracy]),
                index,
                markers=len(curve.epsilons) <= 24,
                customdata=[in_percent([share.low, share.high]) for share in curve.accuracy],
                hovertemplate="%{y:.1f} % [%{customdata[0]:.1f}, %{customdata[1]:.1f}]",
            )
        )
    trained = sorted({c.trained_epsilon for _, _, c in lines if c.trained_epsilon is not None})
    reach = max(curve.max_epsilon for _, _, curve in lines)
    return Figure(
        label=f"Accuracy under {attack} against epsilon, of {counted(len(lines), 'run')}",
        data=traces,
        layout={
            "xaxis": axis(f"epsilon ({text(norm)})", rangemode="tozero"),
            "yaxis": axis("accuracy (%)", range=[0, 101]),
            "hovermode": "x unified",
            "margin": {"t": 40 if len(trained) > 1 else 24},
            "shapes": [vertical(epsilon) for epsilon in trained],
            "annotations": [
                note(epsilon, f"trained at {epsilon:.3g}", row=k % 2, right=epsilon > 0.7 * reach)
                for k, epsilon in enumerate(trained)
            ],
        },
        height=420,
    )


def cost_figure(table: GroupTable) -> Figure | None:
    """Worst case against what a training image costs per epoch; None where all cost the same."""
    known = [
        (row, row.run.cost)
        for row in table.rows
        if row.run.cost is not None and row.run.cost.passes
    ]
    if len({round(sum(cost.passes.values()), 2) for _, cost in known}) < 2:
        return None
    traces = []
    for row, cost in known:
        share, passes = row.evaluation.worst_case, sum(cost.passes.values())
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": text(row.run.name),
                "x": [round(passes, 2)],
                "y": in_percent([share.value]),
                "error_y": _ends([share], 1.4),
                "marker": {"size": 11, "symbol": symbol(row.index), "color": colour(row.index)},
                "hovertemplate": f"%{{y:.1f}} % at {number(passes)} passes",
            }
        )
    return Figure(
        label=f"Worst-case accuracy against passes of training, of {counted(len(traces), 'run')}",
        data=traces,
        layout={
            "xaxis": axis("passes per training image and epoch", rangemode="tozero"),
            "yaxis": axis("worst case (%)"),
            "hovermode": "closest",
        },
        height=380,
    )
