"""One image and what the attacks did to it: pictures, and the margin along each attack's way."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.reporting.figures import style

Pixels = npt.NDArray[np.float32]
_ROW = 1.5
_MOST_BARS = 6
_LONGEST_NAME = 24
_SMALLEST_CHANGE = 1e-12


@dataclass(frozen=True, kw_only=True)
class PathPicture:
    """A margin path: ``margin`` [T] after each forward, ``forward`` [T] their numbers from 0;
    ``failure``: the first at which an image inside the threat was misclassified, if any."""

    margin: Sequence[float]
    forward: Sequence[int]
    failure: int | None


@dataclass(frozen=True, kw_only=True)
class AttackPicture:
    """One attack's ``image`` [C H W] in [0, 1], its class and margin in words, its paths."""

    name: str
    image: Pixels
    words: str
    fooled: bool
    paths: Sequence[PathPicture]


def why_figure(
    image: Pixels,
    title: str,
    probabilities: Sequence[tuple[str, float]],
    attacks: Sequence[AttackPicture],
    out: Path,
    *,
    caption: str,
) -> style.Drawn:
    """The clean ``image`` [C H W] with its class ``probabilities`` (the largest are shown), then a
    row per attack: the perturbation, magnified as stated, the adversarial image, the margin path.

    ``out``: the files' common path without ending.
    """
    with style.our_style():
        figure = style.new_figure(style.PAGE, _ROW * (len(attacks) + 1) + 0.2)
        grid = figure.add_gridspec(len(attacks) + 1, 3, width_ratios=(1, 1, 3.4))
        _show(figure.add_subplot(grid[0, 0]), image, title)
        _bars(figure.add_subplot(grid[0, 1:]), probabilities)
        for row, attack in enumerate(attacks, start=1):
            _change(figure.add_subplot(grid[row, 0]), attack, image)
            _show(figure.add_subplot(grid[row, 1]), attack.image, attack.words)
            axes = figure.add_subplot(grid[row, 2])
            _paths(axes, attack)
            if row == len(attacks):
                axes.set_xlabel("forward of the attack")
        return style.save(figure, out, caption)


def _show(axes: Any, image: Pixels, title: str) -> None:
    pixels = style.paintable(image)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    _frame(axes, title)


def _change(axes: Any, attack: AttackPicture, image: Pixels) -> None:
    """The perturbation, the largest change at full scale: blue is darker, red is brighter in grey
    images; colours around grey in colour images."""
    change = attack.image - image
    largest = float(np.abs(change).max())
    if largest < _SMALLEST_CHANGE:
        factor, scaled = 1.0, np.zeros_like(change)
        words = "no change"
    else:
        factor = 1 / largest
        scaled = change * factor
        words = f"change × {factor:.3g}"
    pixels = style.paintable(scaled)
    if pixels.ndim == 2:
        axes.imshow(pixels, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    else:
        axes.imshow(0.5 + pixels / 2, interpolation="nearest")
    _frame(axes, f"{attack.name}\n{words}")


def _frame(axes: Any, title: str) -> None:
    style.frame(axes, title.splitlines(), longest=_LONGEST_NAME, pad=2)


def _bars(axes: Any, probabilities: Sequence[tuple[str, float]]) -> None:
    shown = sorted(probabilities, key=lambda entry: -entry[1])[:_MOST_BARS]
    rows = range(len(shown))
    bars = axes.barh(
        rows, [100 * share for _, share in shown], color=style.OKABE_ITO[0], height=0.7
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_yticks(rows, [style.shortened(name, _LONGEST_NAME) for name, _ in shown])
    labels = [f"{100 * share:.1f}" for _, share in shown]
    axes.bar_label(bars, labels, padding=2, fontsize=6)
    axes.set_title("clean: probability (%)", fontsize=7, pad=2)


def _paths(axes: Any, attack: AttackPicture) -> None:
    from matplotlib.ticker import MaxNLocator

    if not any(len(path.margin) for path in attack.paths):
        axes.axis("off")
        axes.text(0.5, 0.5, "the model was not called", ha="center", va="center", fontsize=7)
        return
    for number, path in enumerate(attack.paths):
        colour = style.OKABE_ITO[number % len(style.OKABE_ITO)]
        few = len(path.margin) <= 2
        axes.plot(
            path.forward, path.margin, color=colour, linewidth=0.9, marker="." if few else None
        )
        if path.failure is not None:
            at = list(path.forward).index(path.failure)
            axes.plot(
                path.failure,
                path.margin[at],
                marker="X",
                markersize=6,
                color=colour,
                markeredgecolor="black",
                markeredgewidth=0.5,
                linestyle="none",
                zorder=5,
            )
    _below_zero(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    failures = [path.failure for path in attack.paths if path.failure is not None]
    if failures:
        words = f"first wrong at forward {min(failures)}"
    elif any(margin < 0 for path in attack.paths for margin in path.margin):
        words = "wrong only outside the threat"
    else:
        words = "never wrong"
    axes.set_title(f"logit margin: {words}", fontsize=7, pad=2)


def _below_zero(axes: Any) -> None:
    """Shade where the image is misclassified."""
    low, high = axes.get_ylim()
    pad = 0.08 * max(max(high, 0) - min(low, 0), _SMALLEST_CHANGE)
    low, high = min(low, -pad), max(high, pad)
    axes.axhspan(low, 0, color="#D55E00", alpha=0.12, linewidth=0)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_ylim(low, high)
    axes.margins(x=0.01)
