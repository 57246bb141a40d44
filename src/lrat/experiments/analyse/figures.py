"""The figures of an analysis, drawn from what it keeps."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.analysis.views import VIEWS, Columns
from lrat.analysis.weights import ALL_CLASSES, EDGES, SUM
from lrat.experiments.analyse.result import Analysis
from lrat.files.names import FIGURES
from lrat.reporting.figures import (
    Agreement,
    Drawn,
    View,
    WeightEpochs,
    agreement_page,
    agreements,
    classes_figure,
    margin_figure,
    overlap_figure,
    tail_words,
    vulnerability_page,
    weights_over_epochs_figure,
)

SHOWN = ("gd", "pgd", "cw")
_PAIRS = (("gd", "cw"), ("gd", "pgd"), ("pgd", "cw"))
AGREEMENT_NOTES = (
    "chance: the share that independent sets have; random ties: the one that these views would "
    "have if a coin chose among the images with V_GD's value at the edge of its set"
)
_OPEN_BIN = 0.05
"""How wide the last, open bin of the weights is drawn."""


def draw(analysis: Analysis) -> list[Drawn]:
    """All figures, in the analysis' ``figures``: overlaps, distributions of views and margins, and
    where there are some, weights over epochs and t-SNE."""
    folder = analysis.folder / FIGURES
    drawn = [_overlap(analysis, folder), _views(analysis, folder), _margins(analysis, folder)]
    if analysis.weights is not None:
        drawn.append(_weights(analysis, analysis.weights, folder))
    if analysis.embedding is not None:
        drawn += _embedding(analysis, analysis.embedding, folder)
    return drawn


def _overlap(analysis: Analysis, folder: Path) -> Drawn:
    overlap = analysis.overlap
    matrices = {key: np.eye(len(VIEWS)) for key in ("jaccard", "spearman", "kendall")}
    for name, pair in overlap["pairs"].items():
        first, second = name.split("-")
        if first not in VIEWS or second not in VIEWS:
            continue
        for key, matrix in matrices.items():
            value = np.nan if pair[key] is None else pair[key]
            row, column = VIEWS.index(first), VIEWS.index(second)
            matrix[row, column] = matrix[column, row] = value
    chance = overlap["pairs"]["v_pgd-v_cw"]["chance"]["jaccard"]
    same = overlap["pairs"]["margin_pgd-v_cw"]
    caption = (
        f"How far three views agree on the {overlap['size']} most vulnerable images, and on the "
        f"order of all {overlap['n']}. Independent sets would overlap by {chance:.3f}. With PGD's "
        f"result measured by the logit margin, as CW's is, the overlap of PGD and CW is "
        f"{same['jaccard']:.3f}. Ties broken by {overlap['ties']}; by a coin, GD would overlap by "
        f"{overlap['pairs']['v_gd-v_pgd']['jaccard_random_ties']:.3f} with PGD and by "
        f"{overlap['pairs']['v_gd-v_cw']['jaccard_random_ties']:.3f} with CW. "
        f"{_about(analysis.summary)}"
    )
    names = [name.upper() for name in SHOWN]
    return overlap_figure(
        names,
        matrices["jaccard"],
        matrices["spearman"],
        matrices["kendall"],
        folder / "overlap",
        caption=caption,
        chance=chance,
    )


def _views(analysis: Analysis, folder: Path) -> Drawn:
    table = analysis.views
    pgd = View(
        name="pgd",
        values=table["v_pgd"],
        top=table["top_pgd"],
        label="V_PGD: p_y after PGD",
        bounds=(0.0, 1.0),
    )
    cw = View(
        name="cw",
        values=table["v_cw"],
        top=table["top_cw"],
        label="V_CW: logit margin after CW",
    )
    tails = tail_words((pgd, cw))
    caption = (
        f"All images (light) and the {analysis.overlap['size']} most vulnerable ones (dark) of "
        f"either view, in the view of PGD (Eq. 5, a-c) and of CW (Eq. 6, d-f). "
        f"{_sentence(tails)}{_about(analysis.summary)}"
    )
    of = f"{analysis.summary['part']} images"
    return vulnerability_page(pgd, cw, folder / "views", caption=caption, counted=of)


def _margins(analysis: Analysis, folder: Path) -> Drawn:
    names = ("clean", "pgd", "cw", "saa")
    margins = {
        name: analysis.views[f"margin_{name}"]
        for name in names
        if f"margin_{name}" in analysis.views
    }
    caption = (
        "Logit margins (Eq. 6) of all images, clean and after each attack; left of zero they are "
        f"misclassified. {_about(analysis.summary)}"
    )
    return margin_figure(margins, folder / "margins", caption=caption)


def _weights(analysis: Analysis, weights: Columns, folder: Path) -> Drawn:
    chosen = (weights["kind"] == "raw") & (weights["label"] == ALL_CLASSES)
    bins = [name for name in weights if name.startswith("bin_")]
    edges = np.append(EDGES[:-1], EDGES[-2] + _OPEN_BIN)
    terms = []
    for term in dict.fromkeys(weights["term"].tolist()):
        rows = chosen & (weights["term"] == term)
        if term == SUM:
            continue
        terms.append(
            WeightEpochs(
                term=str(term),
                epoch=weights["epoch"][rows],
                edges=edges,
                counts=np.stack([weights[name][rows] for name in bins], axis=1),
                below=weights["share_below"][rows],
                effective=weights["effective_sample_size"][rows],
            )
        )
    summary = analysis.summary
    caption = (
        f"Raw weights of the {int(weights['n'][chosen].max())} training images in each recorded "
        "epoch: their histogram, the share below 0.2 and the effective sample size "
        "(sum w)^2 / (n sum w^2); weights of 3 and more are in the last bin. "
        f"{summary['method']} on {summary['data']}, {summary['model']}, {summary['threat']}, "
        f"training seed {summary['training_seed']}."
    )
    return weights_over_epochs_figure(terms, folder / "weights", caption=caption)


def _embedding(analysis: Analysis, embedding: Columns, folder: Path) -> list[Drawn]:
    points = np.stack([embedding["x"], embedding["y"]], axis=1)
    at = np.searchsorted(analysis.views["index"], embedding["index"])
    top: dict[str, npt.NDArray[np.bool_]] = {
        name: analysis.views[f"top_{name}"].astype(bool) for name in SHOWN
    }
    how = analysis.summary["embedding"]
    tsne = (
        f"t-SNE ({how['engine']}, perplexity {how['perplexity']:g}, seed {how['seed']}) of the "
        f"last layer's outputs on {how['points']} clean images"
    )
    share = 100 * analysis.overlap["top"]
    consistent = (
        f"{tsne}. Coloured: the {share:g} % most vulnerable of all {analysis.overlap['n']} images "
        "in each view; consistent in all views of the panel, or inconsistent, in some; counts are "
        f"of all images. {_sentence(AGREEMENT_NOTES)}Ties broken by {analysis.overlap['ties']}. "
        f"{_about(analysis.summary)}"
    )
    shown = [each.at(at) for each in noted_agreements(top, analysis.overlap)]
    names = analysis.summary["class_names"]
    return [
        agreement_page(points, shown, folder / "agreement", caption=consistent),
        classes_figure(
            points,
            embedding["label"],
            names,
            folder / "classes",
            caption=f"{tsne}, by class. {_about(analysis.summary)}",
        ),
    ]


def noted_agreements(
    top: Mapping[str, npt.NDArray[np.bool_]], overlap: Mapping[str, Any]
) -> list[Agreement]:
    """Figure 3's agreements of the sets ``top`` by view, each with what chance would give, and with
    V_GD what of it the rule for ties makes (``overlap``: of the analysis)."""
    overlaps = {"union": overlap["union"], **overlap["pairs"]}
    keys = ("union", *(f"v_{first}-v_{second}" for first, second in _PAIRS))
    return [
        replace(each, note=_chance(overlaps[key]))
        for each, key in zip(agreements(top), keys, strict=True)
    ]


def _chance(pair: Mapping[str, Any]) -> str:
    parts = [f"chance {100 * pair['chance']['jaccard']:.0f} %"]
    if "jaccard_random_ties" in pair:
        parts.insert(0, f"random ties {100 * pair['jaccard_random_ties']:.0f} %")
    return ", ".join(parts)


def _about(summary: Mapping[str, Any]) -> str:
    """What was analysed, and with which attacks."""
    attacks = summary["identity"]["attacks"]
    return (
        f"{summary['method']} on {summary['data']}, {summary['model']}, training seed "
        f"{summary['training_seed']}, checkpoint {summary['checkpoint']}; n {summary['images']} "
        f"{summary['part']} images of {summary['of']}, all of them attacked; "
        f"PGD: {attacks['pgd']}; CW: {attacks['cw']}; attack seed {summary['seed']}."
    )


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}. " if words else ""
