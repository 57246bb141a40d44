"""`lrat reproduce figureN`: trains the runs of a figure, attacks and analyses them, draws."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lrat.errors import ConfigurationError, LratError
from lrat.files.names import FIGURES
from lrat.reporting.figures import (
    Drawn,
    agreement_figure,
    agreement_page,
    idea_figure,
    vulnerability_figure,
    vulnerability_page,
)
from lrat.reproduce.cell import Attacks
from lrat.reproduce.figures.captions import (
    agreement_caption,
    agreements_of,
    embedded,
    histogram_caption,
    margin_views,
)
from lrat.reproduce.figures.idea import idea_of
from lrat.reproduce.figures.ranking import attack_rankings
from lrat.reproduce.figures.request import FigureRequest, rows_needed
from lrat.reproduce.figures.training import extreme_weights, unseen_weighting
from lrat.reproduce.make_runs import failures, make_runs, tasks_of
from lrat.reproduce.paper import PARTS, whole_and_part
from lrat.reproduce.progress import Watcher
from lrat.reproduce.request import Report, Request

_OF_ONE_MODEL = {"figure3", "figure4", "figure5"}


def _maps(figure: FigureRequest) -> list[Drawn]:
    analysis = figure.analysis("sat")
    points, rows = embedded(analysis)
    shown = [each.at(rows) for each in agreements_of(analysis)]
    caption = agreement_caption(analysis, len(points))
    drawn = [
        agreement_figure(points, each, figure.stem(part), caption=caption, letter=part)
        for part, each in zip(PARTS["figure3"], shown, strict=True)
        if part in figure.parts
    ]
    if not figure.part:
        drawn.append(agreement_page(points, shown, figure.stem(), caption=caption))
    return drawn


def _histograms(figure: FigureRequest) -> list[Drawn]:
    run, analysis = figure.runs("gairat")[0], figure.analysis("gairat")
    (pgd, cw), caption = margin_views(analysis), histogram_caption(analysis)
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
        vulnerability_figure(*panels[part], figure.stem(part), caption=caption, letter=part)
        for part in figure.parts
    ]
    if not figure.part:
        drawn.append(vulnerability_page(pgd, cw, figure.stem(), caption=caption))
    return drawn


def _idea(figure: FigureRequest) -> list[Drawn]:
    idea = idea_of(figure.runs("sat")[0], figure.analysis("sat"))
    return [idea_figure(idea.instances, figure.stem(), caption=idea.words)]


_FIGURES: Mapping[str, Callable[[FigureRequest], list[Drawn]]] = {
    "figure1": extreme_weights,
    "figure2": attack_rankings,
    "figure3": _maps,
    "figure4": _idea,
    "figure5": _histograms,
    "figure6": unseen_weighting,
}


def draw(figure: FigureRequest) -> list[Path]:
    """Draw the figure from finished runs; make the evaluations and analyses of them that it lacks.

    Writes PDF, PNG and the caption (.txt) and returns the files. An interrupted call is continued
    by the next. Raises ``RunFolderError`` with the command that trains what is lacking.
    """
    drawn = _FIGURES[figure.whole](figure)
    return [file for each in drawn for file in (each.pdf, each.png, each.pdf.with_suffix(".txt"))]


def reproduce_figure(request: Request, watcher: Watcher) -> Report:
    """Make the runs that the figure needs, their evaluations and analyses, and its files.

    Raises ``LratError`` in one line, before anything is trained for what cannot be drawn.
    """
    name, rows = request.target, rows_needed(request.target)
    request = _checked(request, rows)
    figure = FigureRequest(
        name=name,
        folder=request.out,
        out=request.out / FIGURES,
        also=request.also,
        seeds=request.seeds if _of_one_model(name) else None,
        data_root=request.choice.data_root,
        say=watcher.say,
    )
    for folder in figure.also:
        for row in rows:
            figure.runs(row, folder)
    failed = failures(make_runs(request, tasks_of(request, rows, Attacks(suite=None)), watcher))
    if failed:
        raise LratError(f"{name} lacks runs that could not be trained: {'; '.join(failed)}")
    paths, about = draw(figure), f"rows {', '.join(rows)}"
    return Report(tables={}, conclusion=_captions(paths), paths=tuple(paths), about=about)


def _of_one_model(name: str) -> bool:
    return whole_and_part(name)[0] in _OF_ONE_MODEL


def _checked(request: Request, rows: Sequence[str]) -> Request:
    """With the seed that a figure of one model shows; refuses what would do nothing."""
    name = request.target
    if request.rows is not None and set(request.rows) != set(rows):
        raise ConfigurationError(f"{name} shows {' and '.join(rows)}: leave --rows away")
    for option, value in (("suite", request.suite), ("limit", request.limit)):
        if value is not None:
            raise ConfigurationError(f"--{option} does nothing for {name}: it is for tables")
    if not _of_one_model(name):
        return request
    seeds = request.seeds or (0,)
    if len(seeds) > 1:
        raise ConfigurationError(f"{name} shows one model: name one seed, as --seeds {seeds[-1]},")
    return replace(request, seeds=seeds)


def _captions(paths: Sequence[Path]) -> str:
    """The captions that lie beside the figures."""
    texts = [path.read_text(encoding="utf-8").strip() for path in paths if path.suffix == ".txt"]
    return "\n\n".join(dict.fromkeys(texts))
