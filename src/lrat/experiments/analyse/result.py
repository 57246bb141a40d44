"""The request of an analysis, its result, and that in short tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from lrat.analysis.views import Columns
from lrat.analysis.weights import ALL_CLASSES, SUM
from lrat.checks import FLAG, check_fields, number, one_of, whole
from lrat.experiments.analyse.ranking import Ranking
from lrat.runs.sources import Part
from lrat.text import aligned, as_command, changed_fields

_MOST_EPOCHS = 6
_NAMES = {
    "v_gd-v_cw": "V_GD - V_CW",
    "v_gd-v_pgd": "V_GD - V_PGD",
    "v_pgd-v_cw": "V_PGD - V_CW",
    "margin_pgd-v_cw": "PGD's margin - V_CW",
    "union": "all three",
}


@dataclass(frozen=True, kw_only=True)
class AnalysisRequest:
    """What to analyse; ``limit`` None all images of the part. ``top``: the share called most
    vulnerable. ``points``: images in the t-SNE, 0 for none. ``again``: repeat both attacks from
    other starts. ``saa``: measure SAA's margins as well."""

    checkpoint: str = "selected"
    part: Part = "train"
    limit: int | None = None
    top: float = 0.2
    points: int = 2000
    seed: int = 0
    again: bool = False
    saa: bool = False
    batch_size: int = 256
    acceleration: Literal["auto", "off"] = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        check_fields(
            self,
            "",
            part=one_of(get_args(Part)),
            top=number(above=0, below=1, example=0.2),
            points=whole(0, example=2000),
            seed=whole(0, example=1),
            again=FLAG,
            saa=FLAG,
        )

    def command(self, run: Path) -> str:
        """``lrat analyse RUN --points 5000``: the command that makes this analysis of a run."""
        return as_command("lrat", "analyse", run, **changed_fields(self))

    def folder_name(self, images: int) -> str:
        """``selected-train-10000``; with a seed and additional attacks where there are some."""
        name = f"{self.checkpoint}-{self.part}-{images}"
        name += f"-seed-{self.seed}" if self.seed else ""
        name += "-again" if self.again else ""
        return name + ("-saa" if self.saa else "")


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """The result as it lies in ``folder``: ``summary`` and ``overlap`` as JSON has them, the
    tables by column. ``weights`` and ``embedding`` are None where there is nothing to show."""

    folder: Path
    summary: dict[str, Any]
    overlap: dict[str, Any]
    views: Columns
    weights: Columns | None
    embedding: Columns | None
    rankings: tuple[Ranking, ...] = ()
    figures: tuple[Path, ...] = ()

    def __str__(self) -> str:
        """Short tables, the notes, and where everything lies."""

        return words_of(self)


def words_of(analysis: Analysis) -> str:
    """What ``lrat analyse`` prints."""
    parts = [_head(analysis.summary), _views(analysis.overlap), _margins(analysis.summary)]
    if analysis.weights is not None:
        parts.append(_weights(analysis.weights))
    parts += [str(ranking) for ranking in analysis.rankings]
    parts.append("\n".join(f"note: {note}" for note in analysis.summary["notes"]))
    parts.append(
        "\n".join([_time(analysis.summary), f"evidence in {analysis.folder}", *_figures(analysis)])
    )
    return "\n\n".join(part for part in parts if part)


def _head(summary: Mapping[str, Any]) -> str:
    right = summary["right_when_clean"]
    attacks = "\n".join(f"{name}: {how}" for name, how in summary["identity"]["attacks"].items())
    return (
        f"{summary['method']} on {summary['data']} ({summary['checkpoint']}), {summary['part']} "
        f"images: n {summary['images']} of {summary['of']}, {100 * right['value']:.2f} % right "
        f"when clean, seed {summary['seed']}\n{attacks}"
    )


def _views(overlap: Mapping[str, Any]) -> str:
    header = ("views", "shared", "Jaccard", "by chance", "random ties", "Spearman", "Kendall")
    rows: list[tuple[str, ...]] = [header]
    pairs = {_NAMES[name]: pair for name, pair in overlap["pairs"].items()}
    again = {
        f"{view.upper()} - from other starts": pair
        for view, pair in overlap.get("again", {}).items()
    }
    for name, pair in {**pairs, _NAMES["union"]: overlap["union"], **again}.items():
        chance = pair["chance"]
        ends = "" if chance["low"] is None else f" [{chance['low']:.3f}, {chance['high']:.3f}]"
        cells = (pair.get(key) for key in ("jaccard_random_ties", "spearman", "kendall"))
        rows.append(
            (
                name,
                str(pair["shared"]),
                f"{pair['jaccard']:.3f}",
                f"{chance['jaccard']:.3f}{ends}",
                *("" if cell is None else f"{cell:.3f}" for cell in cells),
            )
        )
    about = (
        f"the {overlap['size']} most vulnerable of {overlap['n']} in each view; ties by "
        f"{overlap['ties']}; by chance: independent sets, 95 % of them between"
    )
    return f"{aligned(rows)}\n{about}"


def _margins(summary: Mapping[str, Any]) -> str:
    rows = [("margins", "right %", "mean t, right when clean", "mean t, wrong", "mean z")]
    margins = summary["margins"]
    for name in (key.removeprefix("t_") for key in margins if key.startswith("t_")):
        t, z = margins[f"t_{name}"], margins[f"margin_{name}"]
        cells = ("" if t[part] is None else f"{t[part]['mean']:.4f}" for part in ("right", "wrong"))
        rows.append((name, f"{100 * z['positive']:.2f}", *cells, f"{z['all']['mean']:.3f}"))
    return f"{aligned(rows)}\nt: probability margin (Eq. 11); z: logit margin (Eq. 6)"


def _weights(weights: Columns) -> str:
    """Raw weights of some epochs over all classes: the first, the last, and between."""
    header = ("epoch", "term", "n", "mean", "below .2 %", "sample size", "share", "floor acts %")
    rows: list[tuple[str, ...]] = [header]
    chosen = (weights["kind"] == "raw") & (weights["label"] == ALL_CLASSES)
    several = len(np.unique(weights["term"])) > 2
    epochs = np.unique(weights["epoch"])
    shown = np.unique(np.linspace(0, len(epochs) - 1, _MOST_EPOCHS).round().astype(int))
    for row in np.flatnonzero(chosen & np.isin(weights["epoch"], epochs[shown])):
        at = {name: values[row] for name, values in weights.items()}
        is_sum = at["term"] == SUM
        if is_sum and not several:
            continue
        rows.append(
            (
                str(at["epoch"]),
                str(at["term"]),
                str(at["n"]),
                f"{at['mean']:.4f}",
                f"{100 * at['share_below']:.1f}",
                f"{at['effective_sample_size']:.3f}",
                "" if is_sum else f"{at['instance_share']:.4f}",
                f"{100 * at['floor_share']:.1f}",
            )
        )
    about = "raw weights; sample size: (sum w)^2 / (n sum w^2); share: of an image's weight"
    return f"{aligned(rows)}\n{about}"


def _figures(analysis: Analysis) -> list[str]:
    names = ", ".join(path.stem for path in analysis.figures)
    return [f"figures there in figures: {names}"] if names else []


def _time(summary: Mapping[str, Any]) -> str:
    seconds = summary["seconds"]
    return (
        f"opening {seconds['opening']:.1f} s, attacks {seconds['attacks']:.1f} s "
        f"({seconds['images_attacked']} images), t-SNE {seconds['embedding']:.1f} s, figures "
        f"{seconds['figures']:.1f} s, all else {seconds['rest']:.1f} s"
    )
