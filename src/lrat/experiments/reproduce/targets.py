"""What ``lrat reproduce`` can be asked for, and who makes it."""

from lrat.experiments.reproduce.drawing import reproduce_figure
from lrat.reproduce.grid import Watcher
from lrat.reproduce.make import reproduce_table
from lrat.reproduce.request import SENSITIVITY, TABLES, Report, Request
from lrat.reproduce.sensitivity import reproduce_sensitivity


def reproduce_target(request: Request, watcher: Watcher) -> Report:
    """Make what ``request.target`` names. Raises ``LratError`` in one line."""
    if request.target in TABLES:
        return reproduce_table(request, watcher)
    if request.target == SENSITIVITY:
        return reproduce_sensitivity(request, watcher)
    return reproduce_figure(request, watcher)
