"""Figures of training: accuracy over epochs, weights of images over epochs."""

import math
from collections.abc import Sequence
from typing import Any

from lrat.reporting.report.page.charts import (
    DASHES,
    Figure,
    axis,
    colour,
    in_percent,
    line,
    note,
    rounded,
    vertical,
)
from lrat.reporting.report.records import (
    CLEAN,
    HELD_OUT,
    MONITORED,
    ROBUST,
    ReportRecord,
    RunRecord,
    TermWeights,
)
from lrat.text import counted

_MANY = 25
_HISTOGRAMS = 5
_EXACT = 1e-6
_OPEN = 0.1
"""How wide a bin without an upper end is drawn, as a share of its lower one."""


def learning_curve(run: RunRecord) -> Figure:
    """Clean and robust accuracy per epoch on training images, held-out ones and under every
    monitored attack; the selected epoch and where robust overfitting begins."""
    series = learning_series(run)
    traces = [
        _over_epochs(name, x, y, index) for index, (name, (x, y)) in enumerate(series.items())
    ]
    first, last = run.epochs[0], run.epochs[-1]
    marks = _marks(run)
    return Figure(
        label=f"Accuracy of {run.name} over {counted(len(run.epochs), 'epoch')} of training",
        data=traces,
        layout={
            **_epochs_layout([first, last], axis("accuracy (%)")),
            "shapes": [vertical(epoch) for epoch, _ in marks],
            "annotations": [
                note(epoch, words, row=k, right=epoch > first + 0.55 * (last - first))
                for k, (epoch, words) in enumerate(marks)
            ],
            "margin": {"t": 24 + 15 * max(len(marks) - 1, 0)},
        },
        height=380,
    )


def learning_series(run: RunRecord) -> dict[str, tuple[list[int], list[float | None]]]:
    """Every measured accuracy by name: the epochs it was measured in, and per cent."""
    return {
        name: (list(values), in_percent(list(values.values())))
        for name, values in run.accuracy.items()
    }


def compared_learning(report: ReportRecord) -> list[tuple[str, Figure]]:
    """For each measured accuracy that two runs of the same data and threat share, a figure with a
    line per run; under attack on images that were not trained on first."""
    every = [(k, run, learning_series(run)) for k, run in enumerate(report.runs)]
    kinds = dict.fromkeys((run.data, run.threat) for run in report.runs if run.epochs)
    names = dict.fromkeys(name for _, _, series in every for name in series)
    figures = []
    for name in sorted(names, key=_least_telling):
        for data, threat in kinds:
            having = [
                (k, run, series[name])
                for k, run, series in every
                if name in series and (run.data, run.threat) == (data, threat)
            ]
            if len(having) > 1:
                shown = name if len(kinds) == 1 else f"{name}; {data}, {threat}"
                figures.append((shown, _compared(shown, having)))
    return figures


def _least_telling(name: str) -> int:
    kinds = (MONITORED, HELD_OUT, ROBUST, "", CLEAN)
    if name.endswith(", natural"):
        return kinds.index("")
    return next(index for index, kind in enumerate(kinds) if name.startswith(kind) and kind)


def _compared(
    name: str, having: Sequence[tuple[int, RunRecord, tuple[list[int], list[float | None]]]]
) -> Figure:
    """One accuracy of several runs, each with its index in the report."""
    traces = [_over_epochs(run.name, x, y, k) for k, run, (x, y) in having]
    epochs = [epoch for _, _, (x, _) in having for epoch in x]
    layout = _epochs_layout(epochs, axis("accuracy (%)"))
    label = f"Accuracy ({name}) over epochs, of {counted(len(having), 'run')}"
    return Figure(label=label, data=traces, layout=layout, height=420)


def _marks(run: RunRecord) -> list[tuple[int, str]]:
    marks = []
    if run.selected_epoch is not None:
        marks.append((run.selected_epoch, "selected"))
    if run.overfitting is not None and run.overfitting.marked:
        marks.append((run.overfitting.best_epoch, "best"))
    return sorted(marks)


def _over_epochs(
    name: str, x: Sequence[int], y: Sequence[float | None], index: int
) -> dict[str, Any]:
    """Shares in per cent by epoch, as a line of its ``index``."""
    return line(name, x, y, index, markers=len(x) <= _MANY, hovertemplate="%{y:.1f} %")


def _epochs_layout(epochs: Sequence[int], shares: dict[str, Any]) -> dict[str, Any]:
    """Whole epochs against ``shares``; a single epoch has room on both sides."""
    first, last = min(epochs), max(epochs)
    room = 0.03 * (last - first) or 0.5
    few = {"dtick": 1} if last - first <= 10 else {}
    whole = axis("epoch", range=[first - room, last + room], tickformat="d", **few)
    return {"xaxis": whole, "yaxis": shares, "hovermode": "x unified"}


def effective_size(run: RunRecord) -> Figure:
    """Effective sample size, mean weight and the share below .2 of every term over epochs."""
    traces = []
    for index, term in enumerate(run.weights):
        size, below = in_percent(term.effective), in_percent(term.below)
        traces.append(_over_epochs(f"{term.term}: effective", term.epochs, size, index))
        traces.append(_over_epochs(f"{term.term}: below .2", term.epochs, below, index))
        traces[-1]["line"]["dash"] = "dot"
    epochs = [epoch for term in run.weights for epoch in term.epochs]
    return Figure(
        label=f"Effective sample size and share of small weights over epochs, {run.name}",
        data=traces,
        layout=_epochs_layout(epochs, axis("share of images (%)", range=[0, 103])),
        height=340,
    )


def weight_histogram(run: RunRecord, term: TermWeights) -> Figure:
    """Histograms of raw weights, of at most five recorded epochs from the first to the last."""
    shown = spaced(len(term.epochs), _HISTOGRAMS)
    used = _used_bins(term)
    edges = list(term.edges[: used + 1])
    open_at = edges[-2] if math.isinf(edges[-1]) else None
    if open_at is not None:
        edges[-1] = open_at * (1 + _OPEN)
    traces = []
    for index, k in enumerate(shown):
        total = sum(term.counts[k]) or 1
        shares = in_percent([count / total for count in term.counts[k][:used]])
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"epoch {term.epochs[k]}",
                # A step per bin: each share holds from its lower edge to its upper one.
                "x": rounded(edges, 4),
                "y": [*shares, shares[-1]],
                "line": {
                    "shape": "hv",
                    "color": colour(index),
                    "dash": DASHES[index % len(DASHES)],
                    "width": 2,
                },
                "fill": "tozeroy",
                "fillcolor": f"{colour(index)}14",
                "hovertemplate": "%{y:.1f} %",
            }
        )
    return Figure(
        label=f"Histograms of the raw weights of {term.term}, {run.name}",
        data=traces,
        layout={
            "xaxis": axis("raw weight", rangemode="tozero"),
            "yaxis": axis("share of images (%)", rangemode="tozero"),
            "hovermode": "x unified",
            "annotations": []
            if open_at is None
            else [note(edges[-1], f"{open_at:g} and more", right=True)],
        },
        height=340,
    )


def all_equal(weights: Sequence[TermWeights]) -> bool:
    """Whether every image weighed 1 in all recorded epochs: there is nothing to draw then."""
    return all(
        all(abs(value - 1) < _EXACT for value in (*term.mean, *term.effective))
        and not any(term.below)
        for term in weights
    )


def spaced(count: int, most: int) -> list[int]:
    """At most ``most`` of 0 … ``count`` − 1, evenly spaced, with the first and the last."""
    if count <= most:
        return list(range(count))
    return sorted({round(k * (count - 1) / (most - 1)) for k in range(most)})


def in_open_bin(term: TermWeights) -> float:
    """The share of all recorded weights that lie above the last finite edge."""
    every = sum(sum(counts) for counts in term.counts)
    if not every or not math.isinf(term.edges[-1]):
        return 0.0
    return sum(counts[-1] for counts in term.counts) / every


def _used_bins(term: TermWeights) -> int:
    """Bins up to the last that holds an image, and one more to show that it ends."""
    filled = [k for counts in term.counts for k, count in enumerate(counts) if count]
    return min(max(filled, default=0) + 2, len(term.edges) - 1)
