"""A stored analysis read back for the paper's figures, and what their captions say of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lrat.errors import RunFolderError
from lrat.evaluation.storage.store import SUMMARY
from lrat.experiments.analyse.figures import AGREEMENT_NOTES, noted_agreements
from lrat.files.read import NOT_AS_WRITTEN, read_record
from lrat.reporting.figures import Agreement, View, tail_words
from lrat.runs.folder import EMBEDDING, OVERLAP, VULNERABILITY
from lrat.runs.kept import read_kept_table

Columns: TypeAlias = Mapping[str, npt.NDArray[Any]]
VIEW_NAMES = ("gd", "pgd", "cw")
_CURE = "delete it and analyse again"


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredAnalysis:
    """What ``lrat analyse`` left in ``folder``; ``embedding`` None where it left none."""

    folder: Path
    summary: Mapping[str, Any]
    overlap: Mapping[str, Any]
    views: Columns
    embedding: Columns | None

    @staticmethod
    def read(folder: Path) -> "StoredAnalysis":
        """Raises ``RunFolderError`` for an unfinished or damaged analysis."""
        views = read_kept_table(folder, VULNERABILITY, dict, _CURE)
        is_whole = (folder / SUMMARY).is_file() and f"top_{VIEW_NAMES[0]}" in (views or ())
        if views is None or not is_whole:
            raise RunFolderError(
                f"{folder} is no finished analysis: run `lrat analyse` on its run again, it "
                "continues by itself"
            )
        stored = StoredAnalysis(
            folder=folder,
            summary=read_record(folder / SUMMARY, _CURE),
            overlap=read_record(folder / OVERLAP, _CURE),
            views=views,
            embedding=read_kept_table(folder, EMBEDDING, dict, _CURE),
        )
        try:
            stored._check()
        except NOT_AS_WRITTEN:
            raise RunFolderError(
                f"{folder} holds no analysis as `lrat analyse` writes it; {_CURE}"
            ) from None
        return stored

    def _check(self) -> None:
        """One of ``NOT_AS_WRITTEN`` for what captions and searches cannot be made of."""
        captions = [self.ties, *map(str, self.agreements), histogram_caption(self)]
        captions += [] if self.embedding is None else [agreement_caption(self, 0)]
        if not all(captions) or not isinstance(self.summary["identity"], dict):
            raise ValueError("no caption")
        int(self.summary["images"]), int(self.summary["of"])

    @property
    def tops(self) -> dict[str, npt.NDArray[np.bool_]]:
        """View to [n], its most vulnerable images."""
        return {name: self.views[f"top_{name}"].astype(bool) for name in VIEW_NAMES}

    @property
    def agreements(self) -> list[Agreement]:
        """Figure 3's, over all images."""
        return noted_agreements(self.tops, self.overlap)

    @property
    def pgd(self) -> View:
        """V_PGD of Eq. 5."""
        return View(
            name="pgd",
            values=self.views["v_pgd"],
            top=self.tops["pgd"],
            label="V_PGD: probability of the label",
            bounds=(0.0, 1.0),
        )

    @property
    def cw(self) -> View:
        """V_CW of Eq. 6, the raw logit margin."""
        return View(
            name="cw",
            values=self.views["v_cw"],
            top=self.tops["cw"],
            label="V_CW: logit margin",
        )

    @property
    def embedded(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Points [m 2] of the t-SNE and their rows among the images; ``RunFolderError`` without."""
        if self.embedding is None:
            raise RunFolderError(
                f"{self.folder} holds no t-SNE: analyse at least 4 images of a model that tells "
                "them apart, with --points above 0"
            )
        points = np.stack([self.embedding["x"], self.embedding["y"]], axis=1).astype(np.float64)
        return points, np.searchsorted(self.views["index"], self.embedding["index"])

    @property
    def about(self) -> str:
        """Model, images and attacks in words, for captions."""
        told = self.summary
        percent = f"{100 * float(told['top']):g} %"
        return (
            f"{told['method'].upper()} (training seed {told['training_seed']}, weights "
            f"{told['checkpoint']}) on {told['data']}, {told['threat']}, {told['model']}; n = "
            f"{told['images']:,} {told['part']}ing images, the {told['size']:,} ({percent}) most "
            f"vulnerable of each view; PGD and CW as in training, {told['max_steps']} steps, noise "
            f"seed {told['seed']}"
        )

    @property
    def ties(self) -> str:
        """How the set of V_GD rests on ties, for captions."""
        edge = self.overlap["views"]["v_gd"]
        return (
            f"V_GD takes {edge['distinct']} values: at its edge {edge['taken_at']} of "
            f"{edge['at']} images with kappa = {edge['value']:g} are taken, by {_ties(self)}"
        )


def histogram_caption(stored: StoredAnalysis) -> str:
    """What Figure 5's histograms show."""
    told = stored.overlap["pairs"]["v_pgd-v_cw"]
    tails = tail_words((stored.pgd, stored.cw))
    return sentences(
        "V_PGD (Eq. 5, probability of the label after PGD) and V_CW (Eq. 6, raw logit margin after "
        "CW); smaller is more vulnerable; light: all images, dark: the most vulnerable in the view "
        "of PGD (yellow) or CW (blue)",
        f"the two sets have a Jaccard index of {told['jaccard']:.3f} (by chance "
        f"{told['chance']['jaccard']:.3f}), the views Spearman's rho of {number(told['spearman'])}",
        stored.about,
        tails,
    )


def agreement_caption(stored: StoredAnalysis, shown: int) -> str:
    """What Figure 3's maps show."""
    counts = "; ".join(map(str, stored.agreements))
    told = stored.summary["embedding"]
    return sentences(
        f"{told['of']} in two dimensions by t-SNE ({told['engine']}, perplexity "
        f"{told['perplexity']:.3g}, seed {told['seed']}), {shown:,} images shown",
        "orange triangles: most vulnerable in all views of the panel; blue: in some but not all of "
        "them; grey: in none",
        f"counts over all images: {counts}",
        AGREEMENT_NOTES,
        stored.about,
        stored.ties,
    )


def sentences(*parts: str) -> str:
    """Parts that are there, each a sentence."""
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts if part)


def number(value: float | None) -> str:
    """Two decimals, a dash for what is not defined."""
    return "–" if value is None else f"{value:.2f}"


def _ties(stored: StoredAnalysis) -> str:
    return str(stored.overlap.get("ties", "V_PGD, then the image's number"))
