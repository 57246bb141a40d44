"""The agreement between the views of a model on its most vulnerable images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.analysis.overlaps import (
    Mask,
    correlations,
    cut,
    jaccard_of_random_ties,
    most_vulnerable,
    overlap,
    size_of,
)
from lrat.analysis.views import AGAIN, VIEWS, Columns

TIES = "V_PGD, then the image's number"
PAIRS = (("v_gd", "v_cw"), ("v_gd", "v_pgd"), ("v_pgd", "v_cw"))
SAME_MEASURE = ("margin_pgd", "v_cw")
"""The results of PGD and CW by the same measure, so that a disagreement is not due to the scale."""


def top_sets(columns: Mapping[str, npt.NDArray[Any]], share: float) -> dict[str, Mask]:
    """``top_gd``, ``top_pgd``, ``top_cw`` [N]: the most vulnerable ``share`` of images by view.

    ``columns``: those of ``look_at``, in ascending order of the images' numbers. Ties are broken by
    V_PGD, then by the number. Raises ``SettingError`` for a share outside (0, 1).
    """
    size = size_of(share, len(columns["index"]))
    return {
        f"top_{view.removeprefix('v_')}": most_vulnerable(columns[view], size, columns["v_pgd"])
        for view in VIEWS
    }


def agreement(columns: Columns, share: float) -> dict[str, Any]:
    """The content of ``overlap.json``: over all images, and over those classified correctly when
    clean.

    Each has ``n``, ``size``; per view its ``cut`` (see ``overlaps.cut``); per pair ``jaccard``,
    ``chance``, ``spearman``, ``kendall`` and, with V_GD, ``jaccard_random_ties``; ``union`` for all
    three views. The pair ``margin_pgd-v_cw`` has the same measure for both attacks. Where both
    attacks were repeated from other starts, ``again`` compares each view with its repetition: two
    views cannot agree better than that.
    """
    correct = columns["correct"].astype(bool)
    right = {name: values[correct] for name, values in columns.items()}
    return {
        "top": share,
        "ties": TIES,
        "order": "smaller is more vulnerable",
        **_among(columns, share),
        "right_when_clean": _among(right, share) if correct.any() else None,
    }


def _among(columns: Columns, share: float) -> dict[str, Any]:
    n = len(columns["index"])
    size = size_of(share, n)
    sets = {view: most_vulnerable(columns[view], size, columns["v_pgd"]) for view in VIEWS}
    record: dict[str, Any] = {
        "n": n,
        "size": size,
        "views": {view: cut(columns[view], size) for view in VIEWS},
        "pairs": {f"{a}-{b}": _pair(columns, a, b, size) for a, b in (*PAIRS, SAME_MEASURE)},
        "union": overlap(*sets.values()).record(),
    }
    if f"v_gd{AGAIN}" in columns:
        record["again"] = {view: _pair(columns, view, f"{view}{AGAIN}", size) for view in VIEWS}
    return record


def _pair(columns: Columns, first: str, second: str, size: int) -> dict[str, Any]:
    tops = [_top(columns, name, size) for name in (first, second)]
    record = {**overlap(*tops).record(), **correlations(columns[first], columns[second])}
    if first == "v_gd" and not second.endswith(AGAIN):
        record["jaccard_random_ties"] = jaccard_of_random_ties(columns[first], size, tops[1])
    return record


def _top(columns: Columns, name: str, size: int) -> Mask:
    """The top set of a view; ties are broken by V_PGD, of a repeated attack by the repeated one."""
    by = f"v_pgd{AGAIN}" if name.endswith(AGAIN) else "v_pgd"
    return most_vulnerable(columns[name], size, columns[by])


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def margin_distributions(columns: Columns) -> dict[str, Any]:
    """For each ``margin_`` and ``t_`` column: n, mean, standard deviation and quantiles over all
    images, over those right and those wrong when clean (None where there are none); ``positive``:
    the share above 0, which is classified correctly.

    Attacks are to be compared on images that are right when clean: on others an attack's margin
    does not measure its strength.
    """
    correct = columns["correct"].astype(bool)
    parts = {"all": np.ones_like(correct), "right": correct, "wrong": ~correct}
    return {
        name: {
            "positive": float((values > 0).mean()),
            **{part: _distribution(values[rows]) for part, rows in parts.items()},
        }
        for name, values in columns.items()
        if name.startswith(("margin_", "t_"))
    }


def _distribution(values: npt.NDArray[Any]) -> dict[str, Any] | None:
    if not len(values):
        return None
    exact = values.astype(np.float64)
    return {
        "n": len(values),
        "mean": float(exact.mean()),
        "deviation": float(exact.std()),
        "quantiles": {f"{q:g}": float(np.quantile(exact, q)) for q in QUANTILES},
    }
