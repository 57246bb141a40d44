"""What the paper's figures show of an analysis: views, agreements, a t-SNE, and their captions."""

import numpy as np
import numpy.typing as npt

from lrat.errors import RunFolderError
from lrat.experiments.analyse.figures import AGREEMENT_NOTES, SHOWN, noted_agreements
from lrat.experiments.analyse.result import Analysis
from lrat.reporting.figures import Agreement, View, tail_words
from lrat.text import DASH


def agreements_of(analysis: Analysis) -> list[Agreement]:
    """Figure 3's, over all images."""
    tops = {name: analysis.views[f"top_{name}"].astype(bool) for name in SHOWN}
    return noted_agreements(tops, analysis.overlap)


def margin_views(analysis: Analysis) -> tuple[View, View]:
    """V_PGD of Eq. 5, and V_CW of Eq. 6, the raw logit margin."""
    views = analysis.views
    return (
        View(
            name="pgd",
            values=views["v_pgd"],
            top=views["top_pgd"].astype(bool),
            label="V_PGD: probability of the label",
            bounds=(0.0, 1.0),
        ),
        View(
            name="cw",
            values=views["v_cw"],
            top=views["top_cw"].astype(bool),
            label="V_CW: logit margin",
        ),
    )


def embedded(analysis: Analysis) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Points [m 2] of the t-SNE and their rows among the images; ``RunFolderError`` without."""
    table = analysis.embedding
    if table is None:
        raise RunFolderError(
            f"{analysis.folder} holds no t-SNE: analyse at least 4 images of a model that tells "
            "them apart, with --points above 0"
        )
    points = np.stack([table["x"], table["y"]], axis=1).astype(np.float64)
    return points, np.searchsorted(analysis.views["index"], table["index"])


def histogram_caption(analysis: Analysis) -> str:
    """What Figure 5's histograms show."""
    pair = analysis.overlap["pairs"]["v_pgd-v_cw"]
    rho = pair["spearman"]
    return sentences(
        "V_PGD (Eq. 5, probability of the label after PGD) and V_CW (Eq. 6, raw logit margin after "
        "CW); smaller is more vulnerable; light: all images, dark: the most vulnerable in the view "
        "of PGD (yellow) or CW (blue)",
        f"the two sets have a Jaccard index of {pair['jaccard']:.3f} (by chance "
        f"{pair['chance']['jaccard']:.3f}), the views Spearman's rho of "
        f"{DASH if rho is None else f'{rho:.2f}'}",
        _about(analysis),
        tail_words(margin_views(analysis)),
    )


def agreement_caption(analysis: Analysis, shown: int) -> str:
    """What Figure 3's maps show."""
    tsne, edge = analysis.summary["embedding"], analysis.overlap["views"]["v_gd"]
    return sentences(
        f"{tsne['of']} in two dimensions by t-SNE ({tsne['engine']}, perplexity "
        f"{tsne['perplexity']:.3g}, seed {tsne['seed']}), {shown:,} images shown",
        "orange triangles: most vulnerable in all views of the panel; blue: in some but not all of "
        "them; grey: in none",
        f"counts over all images: {'; '.join(map(str, agreements_of(analysis)))}",
        AGREEMENT_NOTES,
        _about(analysis),
        f"V_GD takes {edge['distinct']} values: at its edge {edge['taken_at']} of {edge['at']} "
        f"images with kappa = {edge['value']:g} are taken, by {analysis.overlap['ties']}",
    )


def _about(analysis: Analysis) -> str:
    """Model, images and attacks in words."""
    summary = analysis.summary
    return (
        f"{summary['method'].upper()} (training seed {summary['training_seed']}, weights "
        f"{summary['checkpoint']}) on {summary['data']}, {summary['threat']}, {summary['model']}; "
        f"n = {summary['images']:,} {summary['part']}ing images, the {summary['size']:,} "
        f"({100 * summary['top']:g} %) most vulnerable of each view; PGD and CW as in training, "
        f"{summary['max_steps']} steps, noise seed {summary['seed']}"
    )


def sentences(*parts: str) -> str:
    """Parts that are not empty, each a sentence."""
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts if part)
