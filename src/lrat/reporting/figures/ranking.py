"""Which attack is strongest against which model: the paper's Figure 2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from lrat.errors import SettingError
from lrat.reporting.figures import style

_ROW = 0.29
_ABOVE = 1.0
_WIDE = 4
_FILL = "white"


@dataclass(frozen=True, kw_only=True)
class RankedModel:
    """A model under several attacks: ``accuracy`` by attack, fractions of 1 on the same images.

    ``tied``: pairs of attacks that these images do not tell apart.
    """

    data: str
    method: str
    accuracy: Mapping[str, float]
    tied: frozenset[frozenset[str]] = field(default_factory=frozenset)

    @property
    def order(self) -> list[str]:
        """The attacks, the strongest (least accuracy) first; equal ones in their own order."""
        return sorted(self.accuracy, key=lambda attack: self.accuracy[attack])


def ranking_figure(models: Sequence[RankedModel], out: Path, *, caption: str) -> style.Drawn:
    """A column per model, its attacks from the strongest to the weakest, each with the accuracy (%)
    that it leaves; a line follows each attack from model to model of a data set, so that lines
    which cross are rankings that change. A bar joins neighbours that do not differ significantly.
    """
    if not models:
        raise SettingError("no model to rank attacks on: name at least one")
    attacks = list(models[0].accuracy)
    if not attacks or any(set(model.accuracy) != set(attacks) for model in models):
        raise SettingError("models under other attacks have no common ranking: use one suite")
    groups = [list(group) for _, group in groupby(models, key=lambda model: model.data)]
    width = style.PAGE if len(models) > _WIDE else style.COLUMN
    with style.our_style():
        figure = style.new_figure(width, _ABOVE + _ROW * len(attacks))
        axes = figure.add_subplot()
        lines, first, middles, ticks = {}, 0.0, [], []
        for group in groups:
            positions = [first + number for number in range(len(group))]
            for number, attack in enumerate(attacks):
                colour = style.OKABE_ITO[number % len(style.OKABE_ITO)]
                ranks = [model.order.index(attack) + 1 for model in group]
                (lines[attack],) = axes.plot(
                    positions, ranks, color=colour, linewidth=2.2, zorder=1
                )
            for position, model in zip(positions, group, strict=True):
                _column(axes, position, model, attacks)
            middles.append((positions[0] + positions[-1]) / 2)
            ticks += list(zip(positions, group, strict=True))
            first = positions[-1] + 1.4
        _frame(axes, ticks, groups, middles, len(attacks), width)
        style.legend(
            axes,
            [lines[attack] for attack in attacks],
            [style.shortened(attack, 16) for attack in attacks],
            loc="lower center",
            bbox_to_anchor=(0.5, 1 + 0.22 / (_ROW * len(attacks) + 0.2)),
            borderaxespad=0.1,
            ncols=min(len(attacks), 6 if width == style.PAGE else 3),
            handlelength=1.4,
            columnspacing=1.2,
        )
        return style.save(figure, out, caption)


def _column(axes: Any, position: float, model: RankedModel, attacks: Sequence[str]) -> None:
    for rank, attack in enumerate(model.order, start=1):
        colour = style.OKABE_ITO[attacks.index(attack) % len(style.OKABE_ITO)]
        axes.text(
            position,
            rank,
            f"{100 * model.accuracy[attack]:.1f}",
            fontsize=7,
            horizontalalignment="center",
            verticalalignment="center",
            zorder=3,
            bbox={
                "boxstyle": "round,pad=0.25",
                "facecolor": _FILL,
                "edgecolor": colour,
                "linewidth": 1.1,
            },
        )
    for rank, (stronger, weaker) in enumerate(zip(model.order, model.order[1:], strict=False), 1):
        if frozenset((stronger, weaker)) in model.tied:
            axes.plot(
                [position, position],
                [rank, rank + 1],
                color=style.GREY,
                linewidth=7,
                solid_capstyle="butt",
                zorder=2,
            )


def _frame(
    axes: Any,
    ticks: Sequence[tuple[float, RankedModel]],
    groups: Sequence[Sequence[RankedModel]],
    middles: Sequence[float],
    attacks: int,
    width: float,
) -> None:
    longest = max(6, int(1.15 * (width - 0.6) / 0.062 / max(len(ticks), 1)))
    names = [style.shortened(model.method, longest) for _, model in ticks]
    crowded = max(map(len, names)) * len(names) * 0.062 > width - 0.6
    axes.set_xticks(
        [position for position, _ in ticks],
        names,
        rotation=90 if crowded else 0,
    )
    axes.set_xlim(ticks[0][0] - 0.6, ticks[-1][0] + 0.6)
    axes.set_ylim(attacks + 0.6, 0.4)
    axes.set_yticks(range(1, attacks + 1))
    axes.set_ylabel("rank (1 = strongest)")
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    for middle, group in zip(middles, groups, strict=True):
        axes.annotate(
            style.shortened(group[0].data, max(10, int((width - 0.6) / 0.068 / len(groups)))),
            (middle, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            horizontalalignment="center",
            fontweight="bold",
            fontsize=8,
        )
