"""What ``lrat reproduce`` can be asked for, and who makes it."""

from lrat.experiments.reproduce.grid import Watcher
from lrat.experiments.reproduce.request import TABLES, Request
from lrat.experiments.reproduce.tabling import Report, reproduce_table


def reproduce_target(request: Request, watcher: Watcher) -> Report:
    """Make what ``request.target`` names. Raises ``LratError`` in one line."""
    if request.target in TABLES:
        return reproduce_table(request, watcher)
    raise NotImplementedError
