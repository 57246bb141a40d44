"""Which images are vulnerable, and whether attacks agree on them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrat.analysis.overlaps import Mask, overlap
from lrat.evaluation.outcomes import NATURAL
from lrat.files.read import NOT_AS_WRITTEN
from lrat.reporting.report.collect.evaluations import Evaluated
from lrat.reporting.report.collect.reading import Folder
from lrat.reporting.report.records import OverlapRecord
from lrat.runs.analysis import ANALYSES, OVERLAP, SUMMARY

_VIEWS = {"v_gd": "V_GD", "v_pgd": "V_PGD", "v_cw": "V_CW"}
_PAIRS = {"v_gd-v_cw": (0, 2), "v_gd-v_pgd": (0, 1), "v_pgd-v_cw": (1, 2)}


def analysed(home: Folder) -> list[OverlapRecord]:
    """The most vulnerable images by view, as each analysis in the run's folder found them."""
    found = []
    for path in home.inside(ANALYSES, SUMMARY):
        folder = Folder(path.parent, home.problems)
        summary, stored = folder.json(SUMMARY), folder.json(OVERLAP)
        if not summary or not stored:
            continue
        try:
            found.append(_of_views(path.parent, summary, stored))
        except NOT_AS_WRITTEN:
            folder.tell(f"{path.parent / OVERLAP} is no overlap of views, so it is left out.")
    return found


def _of_views(folder: Path, summary: Mapping[str, Any], stored: Mapping[str, Any]) -> OverlapRecord:
    """Two square matrices from what was stored by pairs."""
    matrices = np.eye(3), np.eye(3)
    for pair, (row, column) in _PAIRS.items():
        values = stored["pairs"][pair]
        for matrix, value in zip(
            matrices, (values["jaccard"], values["chance"]["jaccard"]), strict=True
        ):
            matrix[row, column] = matrix[column, row] = float(value)
    about = (
        f"The {stored['size']} most vulnerable of {stored['n']} {summary['part']} images in each "
        f"of three views (smallest values; {folder.name}), weights {summary['checkpoint']}."
    )
    return OverlapRecord(
        about=about,
        names=list(_VIEWS.values()),
        jaccard=matrices[0].tolist(),
        chance=matrices[1].tolist(),
    )


def fooled(evaluated: Evaluated) -> OverlapRecord | None:
    """The images that each attack of an evaluation fooled, among those right when clean; None for
    fewer than two attacks, or where no outcomes can be read."""
    verdicts = evaluated.verdicts
    if verdicts is None:
        return None
    clean = verdicts.right[NATURAL]
    sets = {name: ~verdicts.right[name][clean] for name in verdicts.names if name != NATURAL}
    if len(sets) < 2 or not clean.any():
        return None
    jaccard, chance = _matrices(list(sets.values()))
    record = evaluated.record
    return OverlapRecord(
        about=(
            f"The images that each attack of {record.suite} fooled, of {int(clean.sum())} test "
            "images that are right when clean."
        ),
        names=list(sets),
        jaccard=jaccard,
        chance=chance,
    )


def _matrices(sets: Sequence[Mask]) -> tuple[list[list[float]], list[list[float]]]:
    """Between every two sets; of empty ones the overlap is 0."""
    jaccard, chance = np.eye(len(sets)), np.eye(len(sets))
    for row, first in enumerate(sets):
        for column in range(row):
            found = overlap(first, sets[column])
            jaccard[row, column] = jaccard[column, row] = found.jaccard
            chance[row, column] = chance[column, row] = found.chance.jaccard
    return jaccard.tolist(), chance.tolist()
