"""`lrat reproduce figureN`: from what runs left in their folders to the paper's figures.

``rows_needed`` says which rows to train, ``prepare_figure`` makes the evaluations and analyses that
are lacking, ``make_figure`` draws. All of them read a folder that `lrat reproduce` claimed.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lrat.reporting.figures import (
    Drawn,
    agreement_figure,
    agreement_page,
    idea_figure,
    vulnerability_figure,
    vulnerability_page,
)
from lrat.reproduce.figures.idea import idea_of
from lrat.reproduce.figures.needs import (
    OUT,
    AnalysisNeed,
    Asked,
    EvaluationNeed,
    analyses_needed,
    evaluations_needed,
    prepare_figure,
    rows_needed,
)
from lrat.reproduce.figures.ranking import attack_rankings
from lrat.reproduce.figures.stored_analysis import agreement_caption, histogram_caption
from lrat.reproduce.figures.training import extreme_weights, unseen_weighting
from lrat.reproduce.paper import FIGURES, PARTS, whole_and_part

__all__ = [
    "FIGURES",
    "PARTS",
    "AnalysisNeed",
    "EvaluationNeed",
    "analyses_needed",
    "evaluations_needed",
    "make_figure",
    "prepare_figure",
    "rows_needed",
]


def make_figure(
    name: str,
    folder: Path,
    *,
    also: Sequence[Path] = (),
    seeds: Sequence[int] | None = None,
    data_root: str | None = None,
    out: Path | None = None,
) -> list[Path]:
    """Draw ``figure1`` ... ``figure6``, or a part as ``figure3b``, from a reproduction's folder.

    Writes PDF, PNG and the caption (.txt) into ``out``, by default the folder's ``figures``, and
    returns the files. ``also``: reproductions of other presets whose models stand beside in Figure
    2. ``seeds``: only runs of these are shown. ``data_root``: where the data lie now, if they were
    moved. Raises ``UnknownNameError`` for other names and ``RunFolderError`` that names the command
    for what is not there yet.
    """
    whole, part = whole_and_part(name)
    asked = Asked(
        whole=whole,
        part=part,
        folder=folder,
        also=tuple(also),
        seeds=None if seeds is None else tuple(seeds),
        root=data_root,
        out=out or folder / OUT,
    )
    drawn = _FIGURES[whole](asked)
    return [file for each in drawn for file in (each.pdf, each.png, each.pdf.with_suffix(".txt"))]


def _maps(asked: Asked) -> list[Drawn]:
    stored = asked.stored("sat")
    points, rows = stored.embedded
    shown = [each.at(rows) for each in stored.agreements]
    caption = agreement_caption(stored, len(points))
    drawn = [
        agreement_figure(points, each, asked.stem(part), caption=caption, letter=part)
        for part, each in zip(PARTS["figure3"], shown, strict=True)
        if part in asked.parts
    ]
    if not asked.part:
        drawn.append(agreement_page(points, shown, asked.stem(), caption=caption))
    return drawn


def _histograms(asked: Asked) -> list[Drawn]:
    stored = asked.stored("gairat")
    pgd, cw, caption = stored.pgd, stored.cw, histogram_caption(stored)
    run = asked.runs("gairat")[0]
    if run.weighted_checkpoint != run.checkpoint:
        caption += (
            f" The reported epoch {run.epoch} lies before the weighting acts, so the last epoch's "
            "model is shown."
        )
    panels = {
        "a": (pgd, None),
        "b": (pgd, pgd),
        "c": (pgd, cw),
        "d": (cw, None),
        "e": (cw, cw),
        "f": (cw, pgd),
    }
    drawn = [
        vulnerability_figure(*panels[part], asked.stem(part), caption=caption, letter=part)
        for part in asked.parts
    ]
    if not asked.part:
        drawn.append(vulnerability_page(pgd, cw, asked.stem(), caption=caption))
    return drawn


def _idea(asked: Asked) -> list[Drawn]:
    run = asked.runs("sat")[0]
    found = idea_of(run, asked.stored("sat"))
    return [idea_figure(found.instances, asked.stem(), caption=found.words)]


_FIGURES: Mapping[str, Callable[[Asked], list[Drawn]]] = {
    "figure1": extreme_weights,
    "figure2": attack_rankings,
    "figure3": _maps,
    "figure4": _idea,
    "figure5": _histograms,
    "figure6": unseen_weighting,
}
