"""Histograms of the weights that a method gave its training images: Figure 1a, and per epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import SettingError
from lrat.reporting.figures import style

_HEIGHT = 2.2
_TERM_HEIGHT = 1.9
_SMALL = 0.2
"""Figure 1a calls weights below this very low."""


@dataclass(frozen=True, kw_only=True)
class WeightEpochs:
    """One term's raw weights over epochs: ``counts`` [E B] of images between ``edges`` [B + 1],
    ``below`` [E] the share below .2 and ``effective`` [E] the effective sample size over n."""

    term: str
    epoch: npt.NDArray[Any]
    edges: npt.NDArray[Any]
    counts: npt.NDArray[Any]
    below: npt.NDArray[Any]
    effective: npt.NDArray[Any]


def weight_histogram_figure(
    weights: Sequence[npt.NDArray[Any]], out: Path, *, caption: str, bins: int = 20
) -> style.Drawn:
    """Share of images per interval of raw weight, the mean over seeds; whiskers: least and most.

    ``weights``: [n] for each seed. The share below .2 is written into the figure.
    """
    if not weights or any(len(each) == 0 for each in weights):
        raise SettingError("no weights to draw: record them with training.record_weights=[...]")
    largest = max(1.0, *(float(each.max()) for each in weights))
    edges = histogram_edges(largest, bins)
    width = float(edges[1])
    shares = np.stack([_counts(each, edges) / len(each) for each in weights]) * 100
    below = np.asarray([float((each < _SMALL).mean()) for each in weights]) * 100
    with style.our_style():
        figure = style.new_figure(style.COLUMN, _HEIGHT)
        axes = figure.add_subplot()
        mean, centres = shares.mean(0), (edges[:-1] + edges[1:]) / 2
        small = centres < _SMALL
        for chosen, colour in ((small, style.CONSISTENT), (~small, style.OKABE_ITO[0])):
            axes.bar(centres[chosen], mean[chosen], 0.9 * width, color=colour)
        if len(shares) > 1:
            spread = (mean - shares.min(0), shares.max(0) - mean)
            some = mean > 0
            axes.errorbar(
                centres[some],
                mean[some],
                yerr=(spread[0][some], spread[1][some]),
                fmt="none",
                color="black",
                linewidth=0.7,
                capsize=1.5,
            )
        axes.axvline(_SMALL, color="black", linewidth=0.7, linestyle=":")
        axes.set_xlim(0, edges[-1])
        axes.set_ylim(0, 1.12 * float(shares.max()))
        axes.set_xlabel("raw weight (Eq. 10)")
        axes.set_ylabel("training images (%)")
        style.light_grid(axes, "y")
        words = f"{below.mean():.1f} % below {_SMALL:g}"
        if len(below) > 1:
            words += f"\n({below.min():.1f} – {below.max():.1f} over {len(below)} seeds)"
        axes.text(
            0.97,
            0.97,
            words,
            transform=axes.transAxes,
            horizontalalignment="right",
            verticalalignment="top",
            color=style.CONSISTENT,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )
        return style.save(figure, out, caption)


def weights_over_epochs_figure(
    terms: Sequence[WeightEpochs], out: Path, *, caption: str
) -> style.Drawn:
    """Per term: the histogram of each epoch as a column of a map, and what sums it up as lines."""
    if not terms or any(len(term.epoch) == 0 for term in terms):
        raise SettingError("no weights to draw: record them with training.record_weights=[...]")
    with style.our_style():
        figure = style.new_figure(style.COLUMN, 0.3 + _TERM_HEIGHT * len(terms))
        grid = figure.add_gridspec(2 * len(terms), 1, height_ratios=(1.5, 1) * len(terms))
        for index, term in enumerate(terms):
            above = figure.add_subplot(grid[2 * index])
            below = figure.add_subplot(grid[2 * index + 1], sharex=above)
            _map(figure, above, term)
            _sums(below, term)
            above.tick_params(labelbottom=False)
            below.tick_params(labelbottom=index == len(terms) - 1)
        below.set_xlabel("epoch")
        return style.save(figure, out, caption)


def histogram_edges(largest: float, bins: int) -> npt.NDArray[np.float64]:
    """About ``bins`` intervals from 0 to the largest weight, .2 being the end of one: no bar may
    stand on both sides of it, unless weights are so large that .2 is none of them."""
    fine = _SMALL * bins / largest
    width = _SMALL / round(fine) if fine >= 1 else _SMALL * round(1 / fine)
    return np.arange(round(np.ceil(largest / width * (1 - 1e-9))) + 1) * width


def _counts(weights: npt.NDArray[Any], edges: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Images per interval; one exactly on the threshold is not below it, whatever rounding says."""
    return np.histogram(weights.astype(np.float64), edges)[0]


def _map(figure: Any, axes: Any, term: WeightEpochs) -> None:
    from matplotlib.colors import PowerNorm

    total = np.maximum(term.counts.sum(1, keepdims=True), 1)
    shares = 100 * term.counts / total
    used = np.flatnonzero(shares.max(0))
    top = int(used.max()) + 1 if len(used) else 1
    sides = _column_edges(term.epoch)
    edges = term.edges.astype(np.float64)
    if not np.isfinite(edges[-1]):  # a last interval for all above
        edges[-1] = edges[-2] + (edges[-2] - edges[-3])
    image = axes.pcolormesh(
        sides,
        edges[: top + 1],
        shares[:, :top].T,
        cmap="Blues",
        # A square root: a few per cent must show beside a peak of eighty.
        norm=PowerNorm(0.5, vmin=0, vmax=max(float(shares.max()), 1e-9)),
        rasterized=True,
    )
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label("images (%)", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    axes.set_ylabel("raw weight")
    axes.set_title(style.shortened(term.term), pad=2)


def _column_edges(epoch: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Where each epoch's column begins and ends: half-way to its neighbours."""
    if len(epoch) == 1:
        return np.asarray([epoch[0] - 0.5, epoch[0] + 0.5])
    middle = (epoch[:-1] + epoch[1:]) / 2
    first, last = 2 * epoch[0] - middle[0], 2 * epoch[-1] - middle[-1]
    return np.concatenate([[first], middle, [last]])


def _sums(axes: Any, term: WeightEpochs) -> None:
    lines = [
        axes.plot(term.epoch, 100 * values, color=colour, marker=marker, markersize=3)[0]
        for values, colour, marker in (
            (term.below, style.CONSISTENT, "o"),
            (term.effective, style.OKABE_ITO[0], "s"),
        )
    ]
    axes.set_ylim(-5, 105)
    axes.set_ylabel("%")
    style.whole_numbers(axes.xaxis)
    style.light_grid(axes, "y")
    style.legend(
        axes,
        lines,
        [f"below {_SMALL:g}", "effective sample size"],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.1,
        ncols=2,
    )
