"""`lrat reproduce figureN`: trains the runs that a figure needs, prepares and draws it.

``rows_needed`` says which rows to train, ``prepare_figure`` makes the evaluations and analyses that
are lacking, ``make_figure`` draws. All of them read a folder that `lrat reproduce` claimed.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lrat.errors import ConfigurationError, LratError
from lrat.reporting.figures import (
    Drawn,
    agreement_figure,
    agreement_page,
    idea_figure,
    vulnerability_figure,
    vulnerability_page,
)
from lrat.reproduce.cell import Attacks
from lrat.reproduce.figures.idea import idea_of
from lrat.reproduce.figures.needs import (
    OUT,
    AnalysisNeed,
    EvaluationNeed,
    FigureRequest,
    analyses_needed,
    check_row,
    evaluations_needed,
    prepare_figure,
    rows_needed,
)
from lrat.reproduce.figures.ranking import attack_rankings
from lrat.reproduce.figures.stored_analysis import agreement_caption, histogram_caption
from lrat.reproduce.figures.training import extreme_weights, unseen_weighting
from lrat.reproduce.folder import note_in_history
from lrat.reproduce.grid import Watcher
from lrat.reproduce.make_runs import make_runs
from lrat.reproduce.paper import FIGURES, PARTS, whole_and_part
from lrat.reproduce.request import Report, Request

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

_OF_ONE_MODEL = {"figure3", "figure4", "figure5"}


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
    asked = FigureRequest(
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


def _maps(asked: FigureRequest) -> list[Drawn]:
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


def _histograms(asked: FigureRequest) -> list[Drawn]:
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


def _idea(asked: FigureRequest) -> list[Drawn]:
    run = asked.runs("sat")[0]
    found = idea_of(run, asked.stored("sat"))
    return [idea_figure(found.instances, asked.stem(), caption=found.words)]


_FIGURES: Mapping[str, Callable[[FigureRequest], list[Drawn]]] = {
    "figure1": extreme_weights,
    "figure2": attack_rankings,
    "figure3": _maps,
    "figure4": _idea,
    "figure5": _histograms,
    "figure6": unseen_weighting,
}


def reproduce_figure(request: Request, watcher: Watcher) -> Report:
    """Make the runs that the figure needs, its analyses and files.

    Raises ``LratError`` in one line, before anything is trained for what cannot be drawn.
    """
    started = time.perf_counter()
    name, data_root = request.target, request.choice.data_root
    rows = rows_needed(name)
    request = _checked(request, rows)
    seeds = request.seeds if whole_and_part(name)[0] in _OF_ONE_MODEL else None
    failed = [
        f"{made.name}: {made.failure}"
        for made in make_runs(request, rows, Attacks(suite=None), watcher)
        if made.failure is not None
    ]
    if failed:
        raise LratError(f"{name} lacks runs that could not be trained: {'; '.join(failed)}")
    for folder in (request.out, *request.also):
        prepare_figure(name, folder, seeds=seeds, data_root=data_root, say=watcher.say)
    paths = make_figure(name, request.out, also=request.also, seeds=seeds, data_root=data_root)
    seconds = time.perf_counter() - started
    about = f"rows {', '.join(rows)}"
    note_in_history(request.out, name, request.command, seconds=seconds, about=about)
    return Report(tables={}, conclusion=_captions(paths), paths=tuple(paths), seconds=seconds)


def _checked(request: Request, rows: Sequence[str]) -> Request:
    """With the seed that a figure of one model shows; refuses what would do nothing."""
    name = request.target
    if request.rows is not None and set(request.rows) != set(rows):
        raise ConfigurationError(f"{name} shows {' and '.join(rows)}: leave --rows away")
    for option, value in (("suite", request.suite), ("limit", request.limit)):
        if value is not None:
            raise ConfigurationError(f"--{option} does nothing for {name}: it is for tables")
    for folder in request.also:
        for row in rows:
            check_row(name, folder, row)
    if whole_and_part(name)[0] not in _OF_ONE_MODEL:
        return request
    seeds = request.seeds or (0,)
    if len(seeds) > 1:
        raise ConfigurationError(f"{name} shows one model: name one seed, as --seeds {seeds[-1]},")
    return replace(request, seeds=seeds)


def _captions(paths: Sequence[Path]) -> str:
    """The captions that lie beside the figures."""
    texts = [path.read_text(encoding="utf-8").strip() for path in paths if path.suffix == ".txt"]
    return "\n\n".join(dict.fromkeys(texts))
