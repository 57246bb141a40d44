"""`lrat reproduce figureN`: trains the runs that a figure needs, prepares and draws it."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lrat.errors import LratError
from lrat.experiments.paper_figures import make_figure
from lrat.experiments.paper_figures_needs import prepare_figure, rows_needed, whole_and_part
from lrat.experiments.reproduce import history
from lrat.experiments.reproduce.grid import Watcher
from lrat.experiments.reproduce.making import Attacks
from lrat.experiments.reproduce.request import Request
from lrat.experiments.reproduce.running import make_runs
from lrat.experiments.reproduce.tabling import Report

_OF_ONE_SEED = {"figure3", "figure4", "figure5"}
"""What shows a single model."""


def reproduce_figure(request: Request, watcher: Watcher) -> Report:
    """Make the figure's runs (``request.rows`` None: those it needs), analyses and files.

    Raises ``LratError`` in one line.
    """
    started = time.perf_counter()
    name, data_root = request.target, request.choice.data_root
    rows = request.rows or rows_needed(name)
    failed = [
        f"{made.name}: {made.failure}"
        for made in make_runs(_with_seeds(request), rows, Attacks(suite=None), watcher)
        if made.failure is not None
    ]
    if failed:
        raise LratError(f"{name} lacks runs that could not be trained: {'; '.join(failed)}")
    prepare_figure(name, request.out, data_root=data_root, say=watcher.say)
    paths = make_figure(name, request.out, also=request.also, data_root=data_root)
    seconds = time.perf_counter() - started
    about = f"rows {', '.join(rows)}"
    history.note(request.out, name, request.command, seconds=seconds, about=about)
    return Report(tables={}, conclusion=_captions(paths), paths=tuple(paths), seconds=seconds)


def _with_seeds(request: Request) -> Request:
    """With the seeds that the figure shows, where none are asked for."""
    whole, _ = whole_and_part(request.target)
    if request.seeds is not None or whole not in _OF_ONE_SEED:
        return request
    return replace(request, seeds=(0,))


def _captions(paths: Sequence[Path]) -> str:
    """The captions that lie beside the figures."""
    texts = [path.read_text(encoding="utf-8").strip() for path in paths if path.suffix == ".txt"]
    return "\n\n".join(dict.fromkeys(texts))
