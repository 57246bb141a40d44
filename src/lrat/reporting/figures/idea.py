"""The paper's Figure 4 from real images: each pair of image and attack has its own weight."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import SettingError
from lrat.reporting.figures import style

_ROW = 1.5
_NAME = 16


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image's variant under one attack: ``image`` [C H W], the class it is taken for, its
    probability margin t (Eq. 11), and its weight relative to the mean over images."""

    attack: str
    image: npt.NDArray[np.float32]
    prediction: str
    margin: float
    weight: float


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A clean image [C H W] with its class, its pairs, and the one weight that global reweighting
    gives it, relative to the mean over images."""

    image: npt.NDArray[np.float32]
    label: str
    pairs: Sequence[Pair]
    global_weight: float


def idea_figure(instances: Sequence[Instance], out: Path, *, caption: str) -> style.Drawn:
    """A row per image: clean, each attack's variant (framed red where its weight is above the
    instance's mean, blue where below), and the weights as bars beside the one global weight."""
    if not instances or any(not each.pairs for each in instances):
        raise SettingError("nothing to draw: name at least one image with at least one variant")
    count = max(len(each.pairs) for each in instances)
    highest = max(
        max(each.global_weight, *(pair.weight for pair in each.pairs)) for each in instances
    )
    with style.our_style():
        figure = style.new_figure(style.PAGE, _ROW * len(instances) + 0.35)
        grid = figure.add_gridspec(
            len(instances), count + 2, width_ratios=(*(1,) * (count + 1), 1.9)
        )
        for row, instance in enumerate(instances):
            _show(figure.add_subplot(grid[row, 0]), instance.image, "clean", instance.label)
            mean = float(np.mean([pair.weight for pair in instance.pairs]))
            for column, pair in enumerate(instance.pairs, start=1):
                _pair(figure.add_subplot(grid[row, column]), pair, pair.weight >= mean)
            axes = figure.add_subplot(grid[row, count + 1])
            _bars(axes, instance, mean, 1.25 * max(highest, 1.0))
            if row == 0:
                axes.set_title("weight / mean weight", pad=3)
        return style.save(figure, out, caption)


def _pair(axes: Any, pair: Pair, heavier: bool) -> None:
    colour = style.CONSISTENT if heavier else style.INCONSISTENT
    _show(axes, pair.image, pair.attack.upper(), pair.prediction, colour)
    axes.set_xlabel(f"t = {pair.margin:.2f}", fontsize=7, labelpad=2, color=colour)


def _bars(axes: Any, instance: Instance, mean: float, top: float) -> None:
    names = [pair.attack.upper() for pair in instance.pairs]
    weights = [pair.weight for pair in instance.pairs]
    colours = [style.CONSISTENT if weight >= mean else style.INCONSISTENT for weight in weights]
    positions = [*range(len(names)), len(names) + 0.5]
    bars = axes.bar(
        positions, [*weights, instance.global_weight], 0.72, color=[*colours, style.GREY]
    )
    axes.bar_label(
        bars,
        [f"{value:.2f}" for value in (*weights, instance.global_weight)],
        padding=1.5,
        fontsize=7,
        # The line of the mean would strike out a weight just below it.
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3},
    )
    axes.axhline(1, color="black", linewidth=0.6, linestyle=":")
    axes.set_ylim(0, top)
    axes.set_xticks(positions, [*(style.shortened(name, 6) for name in names), "one for all"])
    axes.tick_params(axis="x", length=0)
    axes.set_yticks([0, 1])
    style.light_grid(axes, "y")


def _show(
    axes: Any, image: npt.NDArray[np.float32], answer: str, taken_for: str, frame: str = "black"
) -> None:
    pixels = style.paintable(image).clip(0, 1)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    style.frame(axes, [answer, taken_for], longest=_NAME, pad=3)
    for side in axes.spines.values():
        side.set_color(frame)
        side.set_linewidth(0.6 if frame == "black" else 2)
