"""Figures of evaluated runs: every run at a glance, security curves, robustness against cost."""

from collections.abc import Sequence

from lrat.reporting.report.page.charts import (
    MARK,
    Figure,
    axis,
    band,
    colour,
    in_percent,
    line,
    note,
    symbol,
    text,
    vertical,
)
from lrat.reporting.report.page.numbers import counted, number, percent
from lrat.reporting.report.page.results import GroupTable
from lrat.reporting.report.records import CurveRecord, ReportRecord, RunRecord, Share

_ROW = 26
_FRAME = 110
_FEW = 4


def overview(table: GroupTable) -> Figure:
    """Every run of a group as a row: its accuracy under each attack, the worst case with its
    interval."""
    names = [text(row.run.name) for row in table.rows]
    traces = []
    for place, attack in enumerate(table.columns):
        worst = place == len(table.columns) - 1
        shares = [row.shares[place] for row in table.rows]
        traces.append(_dots(attack, names, shares, place, worst=worst))
    best, worst_case = table.rows[0].run.name, table.rows[0].evaluation.worst_case
    return Figure(
        label=(
            f"Accuracy of {counted(len(names), 'run')} under each attack; "
            f"{best} leads by worst case with {percent(worst_case.value)} %"
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
    attack: str, names: Sequence[str], shares: Sequence[Share | None], place: int, *, worst: bool
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
            "symbol": "circle" if worst else f"{symbol(place)}-open",
            "color": colour(1) if worst else MARK if place == 0 else colour(_calm(place)),
            "line": {"width": 0 if worst else 1.6},
        },
    }
    if worst:
        trace["error_x"] = {
            "type": "data",
            "symmetric": False,
            "array": in_percent([share.high - share.value for _, share in known]),
            "arrayminus": in_percent([share.value - share.low for _, share in known]),
            "thickness": 1.6,
            "width": 4,
            "color": colour(1),
        }
    return trace


def _calm(place: int) -> int:
    """Colours of single attacks: all but the one that the worst case has."""
    return (0, 2, 3, 4, 5)[(place - 1) % 5]


def security_curves(report: ReportRecord) -> list[tuple[str, Figure]]:
    """A titled figure per data set, attack and norm: the share that stands at each epsilon."""
    kinds: dict[tuple[str, str, str], list[tuple[int, RunRecord, CurveRecord]]] = {}
    for place, run in enumerate(report.runs):
        for curve in run.curves:
            if len(curve.epsilon):
                kinds.setdefault((run.data, curve.attack, curve.norm), []).append(
                    (place, run, curve)
                )
    return [
        (f"{data}, {attack}, {norm}", _security(attack, norm, lines))
        for (data, attack, norm), lines in kinds.items()
    ]


def _security(
    attack: str, norm: str, lines: Sequence[tuple[int, RunRecord, CurveRecord]]
) -> Figure:
    traces = []
    for place, run, curve in lines:
        traces.append(band(curve.epsilon, curve.share, place, faint=len(lines) > _FEW))
        traces.append(
            line(
                run.name,
                curve.epsilon,
                in_percent([share.value for share in curve.share]),
                place,
                markers=len(curve.epsilon) <= 24,
                customdata=[in_percent([share.low, share.high]) for share in curve.share],
                hovertemplate="%{y:.1f} % [%{customdata[0]:.1f}, %{customdata[1]:.1f}]",
            )
        )
    trained = sorted({c.trained_epsilon for _, _, c in lines if c.trained_epsilon is not None})
    reach = max(max(curve.epsilon) for _, _, curve in lines)
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
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": in_percent([share.high - share.value]),
                    "arrayminus": in_percent([share.value - share.low]),
                    "thickness": 1.4,
                    "width": 4,
                },
                "marker": {"size": 11, "symbol": symbol(row.place), "color": colour(row.place)},
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
