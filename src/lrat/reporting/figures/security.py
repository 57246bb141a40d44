"""The security curve: accuracy against epsilon, several runs in one figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrat.errors import SettingError
from lrat.reporting.figures import style
from lrat.threat.norms import NORMS

_HEIGHT = 2.3
_LEGEND_LINE = 0.14
_SYMBOLS = {norm.name: norm.symbol for norm in NORMS.values()}


def security_curve_figure(curves: Mapping[str, Mapping[str, Any]], out: Path) -> style.Drawn:
    """Accuracy against epsilon with 95 % intervals, a line per name of ``curves``.

    ``curves``: what ``Curve.as_dict`` gives, or a stored ``curve.json``; ``trained_epsilon`` in it
    is marked. ``out``: the files' common path without ending. Curves of one norm only.
    """
    if not curves:
        raise SettingError("no curve to draw: name at least one run")
    norms = sorted({str(curve["norm"]) for curve in curves.values()})
    if len(norms) > 1:
        raise SettingError(f"curves in {' and '.join(norms)} have no common axis: draw them apart")
    with style.our_style():
        figure = style.new_figure(style.COLUMN, _HEIGHT + _LEGEND_LINE * len(curves))
        axes = figure.add_subplot()
        lines = [_line(axes, number, curve) for number, curve in enumerate(curves.values())]
        _axes(axes, curves, norms[0])
        areas = [
            f"{style.shortened(name)} (area {curve['area']:.3f})" for name, curve in curves.items()
        ]
        style.legend(axes, lines, areas, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        return style.save(figure, out, caption_of(curves))


def caption_of(curves: Mapping[str, Mapping[str, Any]]) -> str:
    """What the figure shows: attack and settings, norm, images, seed and resolution of each."""
    shared = {
        "attack": "attack {attack}",
        "settings": "{settings} at the largest epsilon",
        "n": "n {n} images",
        "seed": "seed {seed}",
        "levels": "epsilon in {levels} equal steps",
    }
    same, differing = [], []
    for key, words in shared.items():
        values = {str(curve[key]) for curve in curves.values()}
        if len(values) == 1:
            same.append(words.format(**{key: values.pop()}))
        else:
            differing += [
                f"For {name} {words.format(**{key: curve[key]})}" for name, curve in curves.items()
            ]
    norm = _norm(next(iter(curves.values())))
    areas = ", ".join(
        f"{name} {curve['area']:.4f} (up to {curve['max_epsilon']:g}; median smallest epsilon "
        + (
            f"above {curve['max_epsilon']:g}"
            if curve["median_epsilon"] is None
            else f"{curve['median_epsilon']:.4g}"
        )
        + f", {100 * curve['censored']:.1f} % withstand all)"
        for name, curve in curves.items()
    )
    sentences = [
        f"Accuracy against epsilon ({norm}, pixels in [0, 1]) under one attack; bands are Wilson "
        "95 % intervals; the smallest epsilon of each image is found by bisection",
        "; ".join(same),
        *differing,
        f"area under the curve, 1 is perfect: {areas}",
    ]
    if _trained(curves) is not None:
        sentences.append("dotted: the epsilon trained for")
    return " ".join(f"{words[0].upper()}{words[1:]}." for words in sentences if words)


def _line(axes: Any, number: int, curve: Mapping[str, Any]) -> Any:
    colour = style.OKABE_ITO[number % len(style.OKABE_ITO)]
    dashes = style.DASHES[number % len(style.DASHES)]
    percent = {key: [100 * value for value in curve[key]] for key in ("accuracy", "low", "high")}
    axes.fill_between(
        curve["epsilon"], percent["low"], percent["high"], color=colour, alpha=0.15, linewidth=0
    )
    (line,) = axes.plot(curve["epsilon"], percent["accuracy"], color=colour, linestyle=dashes)
    return line


def _axes(axes: Any, curves: Mapping[str, Mapping[str, Any]], norm: str) -> None:
    widest = max(curve["max_epsilon"] for curve in curves.values())
    axes.set_xlim(0, widest)
    axes.set_ylim(0, 100)
    axes.grid(visible=True, color="#d9d9d9", linewidth=0.4)
    axes.set_axisbelow(True)
    axes.set_ylabel("accuracy (%)")
    axes.set_xlabel(f"epsilon ({_SYMBOLS.get(norm, norm)}, pixels in [0, 1])")
    trained = _trained(curves)
    if trained is not None and trained <= widest:
        axes.axvline(trained, color="black", linewidth=0.8, linestyle=":")
        # To the right of the line and above the curves, which fall.
        axes.annotate(
            f"trained for {trained:.3g}",
            (trained, 97),
            xytext=(2, 0),
            textcoords="offset points",
            fontsize=7,
            verticalalignment="top",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )


def _norm(curve: Mapping[str, Any]) -> str:
    return _SYMBOLS.get(str(curve["norm"]), str(curve["norm"]))


def _trained(curves: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The epsilon that all of them were trained for, if it is one and known."""
    known = {curve.get("trained_epsilon") for curve in curves.values()}
    only = known.pop() if len(known) == 1 else None
    return None if only is None else float(only)
