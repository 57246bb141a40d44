"""`lrat reproduce figureN`: trains the runs that a figure needs, prepares and draws it."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lrat.errors import ConfigurationError, LratError
from lrat.experiments.reproduce import history
from lrat.reproduce.cell import Attacks
from lrat.reproduce.figures.make import make_figure
from lrat.reproduce.figures.needs import check_row, prepare_figure, rows_needed
from lrat.reproduce.grid import Watcher
from lrat.reproduce.make_runs import make_runs
from lrat.reproduce.paper import whole_and_part
from lrat.reproduce.request import Report, Request

_OF_ONE_MODEL = {"figure3", "figure4", "figure5"}


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
    history.note(request.out, name, request.command, seconds=seconds, about=about)
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
