"""How far views agree on the most vulnerable images: t-SNE of training images (Figure 3),
overlaps of sets, rank correlations; and the classes of the images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import SettingError
from lrat.reporting.figures import style

Mask = npt.NDArray[np.bool_]
_HEIGHT = 2.7
_LABELLED_CLASSES = 20
_GAP = 0.09
"""Class names closer than this share of the picture would cover each other."""

_SIDE = 2.15
_DARK = 0.55
_ONLY_A_FEW = 12


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of the images [n]: the ``consistent`` and ``inconsistent`` ones between views ``name``.

    ``both`` and ``either``: how many these are among all images, also where only some are shown.
    ``note``: a line below them, such as what chance would give.
    """

    name: str
    consistent: Mask
    inconsistent: Mask
    both: int
    either: int
    note: str = ""

    def __str__(self) -> str:
        """``GD – CW: 912 of 3,088 consistent (chance 11 %)``."""
        note = f" ({self.note})" if self.note else ""
        return f"{self.name}: {self.both:,} of {self.either:,} consistent{note}"

    def at(self, rows: npt.NDArray[Any]) -> "Agreement":
        """Only these rows to be shown, the counts still those of all images."""
        return replace(self, consistent=self.consistent[rows], inconsistent=self.inconsistent[rows])


def agreements(top: Mapping[str, Mask]) -> list[Agreement]:
    """The union first, then each pair of views: Figure 3's a, b, c, d for gd, pgd and cw.

    ``top``: view to [n], its most vulnerable images. Consistent are those in all of the views,
    inconsistent those in some. The pairs come in the paper's order: the first view with the last,
    the first with the second, the second with the last.
    """
    names = list(top)
    pairs = sorted(combinations(range(len(names)), 2), key=lambda pair: (pair[0], -pair[1]))
    groups = [names, *([names[a], names[b]] for a, b in pairs)] if len(names) > 2 else [names]
    computed = []
    for group in groups:
        sets = np.stack([top[name] for name in group])
        every: Mask = np.asarray(sets.all(0))
        some: Mask = np.asarray(sets.any(0))
        name = " – ".join(style.shortened(each, 12).upper() for each in group)
        if len(group) > 2:
            name = f"union: {name}"
        computed.append(
            Agreement(
                name=name,
                consistent=every,
                inconsistent=some & ~every,
                both=int(every.sum()),
                either=int(some.sum()),
            )
        )
    return computed


def agreement_figure(
    points: npt.NDArray[Any], shown: Agreement, out: Path, *, caption: str, letter: str = ""
) -> style.Drawn:
    """One panel: ``points`` [n 2], the consistent in red, the inconsistent in blue, others grey."""
    _check(points)
    with style.our_style():
        figure = style.new_figure(style.COLUMN, _HEIGHT)
        axes = figure.add_subplot()
        handles = _panel(axes, points, shown, letter)
        _key(figure, handles)
        return style.save(figure, out, caption)


def agreement_page(
    points: npt.NDArray[Any], shown: Sequence[Agreement], out: Path, *, caption: str
) -> style.Drawn:
    """All panels in one figure as wide as a page."""
    _check(points)
    if not shown:
        raise SettingError("no agreement to draw: name at least two views")
    with style.our_style():
        columns = min(len(shown), 4)
        rows = -(-len(shown) // columns)
        side = style.PAGE / columns
        figure = style.new_figure(style.PAGE, rows * (side + 0.22) + 0.25)
        handles: list[Any] = []
        for index, each in enumerate(shown):
            axes = figure.add_subplot(rows, columns, index + 1)
            handles = _panel(axes, points, each, "abcdefgh"[index % 8], size=0.6)
        _key(figure, handles)
        return style.save(figure, out, caption)


def classes_figure(
    points: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    class_names: Sequence[str],
    out: Path,
    *,
    caption: str,
) -> style.Drawn:
    """``points`` [n 2] coloured by class, each class named at its median where there is room.

    Colours repeat where there are more classes than colours; more than 20 classes are not named.
    """
    _check(points)
    with style.our_style():
        figure = style.new_figure(style.COLUMN, _HEIGHT)
        axes = figure.add_subplot()
        colours = np.asarray(style.OKABE_ITO)[labels.astype(int) % len(style.OKABE_ITO)]
        axes.scatter(*points.T, c=colours, s=_size(len(points)), linewidths=0, rasterized=True)
        _bare(axes, points)
        present = np.unique(labels)
        if len(present) <= _LABELLED_CLASSES:
            _name_classes(axes, points, labels, present, class_names)
        return style.save(figure, out, caption)


def _panel(
    axes: Any, points: npt.NDArray[Any], shown: Agreement, letter: str, size: float = 1.0
) -> list[Any]:
    base = size * _size(len(points))
    rest = ~(shown.consistent | shown.inconsistent)
    handles = []
    # The consistent lie on top, as triangles for those who see no difference of hue.
    for mask, colour, marker, factor in (
        (rest, style.GREY, "o", 0.5),
        (shown.inconsistent, style.INCONSISTENT, "o", 1.0),
        (shown.consistent, style.CONSISTENT, "^", 1.3),
    ):
        handles.append(
            axes.scatter(
                *points[mask].T,
                s=base * factor,
                color=colour,
                marker=marker,
                linewidths=0,
                rasterized=True,
            )
        )
    _bare(axes, points)
    first = f"({letter}) {shown.name}" if letter else shown.name
    share = "none"
    if shown.either:
        share = f"{100 * shown.both / shown.either:.0f} % of {shown.either:,} consistent"
    lines = [first, share, *([shown.note] if shown.note else [])]
    axes.set_title("\n".join(lines), pad=2, fontsize=7 if size < 1 else 8)
    return handles


def _key(figure: Any, handles: Sequence[Any]) -> None:
    names = ("other images", "inconsistent", "consistent")
    key = figure.legend(
        list(reversed(handles)),
        list(reversed(names)),
        loc="outside lower center",
        ncols=3,
        handletextpad=0.1,
        columnspacing=1.0,
    )
    for handle in key.legend_handles:
        handle.set_sizes([14])


def _name_classes(
    axes: Any,
    points: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    present: npt.NDArray[Any],
    class_names: Sequence[str],
) -> None:
    extent = np.maximum(np.ptp(points, axis=0), 1e-12)
    placed: list[npt.NDArray[Any]] = []
    for label in present.astype(int).tolist():
        middle = np.median(points[labels == label], axis=0)
        if any((np.abs(middle - other) / extent < (2 * _GAP, _GAP)).all() for other in placed):
            continue
        placed.append(middle)
        name = class_names[label] if 0 <= label < len(class_names) else str(label)
        axes.text(
            *middle,
            style.shortened(name, 14),
            fontsize=7,
            horizontalalignment="center",
            verticalalignment="center",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        )


def _size(count: int) -> float:
    """Points squared of a marker: all of many must not become one blot."""
    return float(np.clip(12_000 / max(count, 1), 1.5, 20))


def _bare(axes: Any, points: npt.NDArray[Any]) -> None:
    """t-SNE's axes mean nothing."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlim(*style.widened(float(points[:, 0].min()), float(points[:, 0].max())))
    axes.set_ylim(*style.widened(float(points[:, 1].min()), float(points[:, 1].max())))
    for side in axes.spines.values():
        side.set_visible(True)
        side.set_linewidth(0.4)


def _check(points: npt.NDArray[Any]) -> None:
    if len(points) == 0:
        raise SettingError("no point to draw: embed at least one image")
    if not np.isfinite(points).all():
        raise SettingError("the embedding holds numbers that are not finite: make it again")


def overlap_figure(
    names: Sequence[str],
    jaccard: npt.NDArray[Any],
    spearman: npt.NDArray[Any],
    kendall: npt.NDArray[Any],
    out: Path,
    *,
    caption: str,
    chance: float,
) -> style.Drawn:
    """Three matrices [V V] over the views ``names``: Jaccard overlap of the most vulnerable sets,
    beside what ``chance`` would give, and two rank correlations; NaN is shown as a dash."""
    count = len(names)
    if count < 2 or any(each.shape != (count, count) for each in (jaccard, spearman, kendall)):
        raise SettingError(f"overlaps of {count} views need matrices [{count} {count}], count >= 2")
    with style.our_style():
        figure = style.new_figure(style.PAGE, _SIDE + 0.25)
        panels = (
            (jaccard, f"Jaccard overlap (by chance {chance:.2f})", "Blues", 0.0),
            (spearman, "Spearman's ρ", "PuOr_r", -1.0),
            (kendall, "Kendall's τ", "PuOr_r", -1.0),
        )
        for index, (values, title, colours, low) in enumerate(panels):
            axes = figure.add_subplot(1, 3, index + 1)
            _matrix(axes, names, values, colours, low, with_rows=index == 0)
            axes.set_title(title, pad=4)
        return style.save(figure, out, caption)


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
    indices = range(len(names))
    few = len(names) <= _ONLY_A_FEW
    short = [style.shortened(name, 10) for name in names]
    axes.set_xticks(indices if few else [], short if few else [])
    axes.set_yticks(indices if few and with_rows else [], short if few and with_rows else [])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    for row in indices if few else ():
        for column in indices:
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
