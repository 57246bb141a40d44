"""The rows of a reproduction by name: the method, the step of its attacks, and the row against
which it is judged."""

from collections.abc import Container
from typing import Any

from lrat.checks import threat_parts
from lrat.config import catalogue
from lrat.errors import UnknownNameError

LONG_STEP = 0.22
"""The step of the same group's published code as a share of epsilon (0.007 at 0.031); the paper's
text says .1."""
LONG_SUFFIX = f"-{LONG_STEP:g}eps"
BASELINE = "sat"
LONG_BASELINE = f"{BASELINE}{LONG_SUFFIX}"
_ABLATED = {"gd+cw": "lrat-cw", "gd+saa": "lrat-saa", "saa+cw+gd": "lrat-saa+cw"}
"""Table 2 asks what a GD term does to a mixture, so each stands beside the same one without GD."""


def check_row(name: str) -> str:
    """The row's own name: a method's, aliases resolved, or one with the long step, as
    ``lrat-cw-0.22eps``. ``UnknownNameError`` for one that is not known."""
    method = name.removesuffix(LONG_SUFFIX)
    resolved = catalogue.ALIASES.get(method, method)
    if resolved not in catalogue.METHODS:
        raise UnknownNameError("row", name, [*catalogue.METHODS, *catalogue.ALIASES, LONG_BASELINE])
    return resolved + name[len(method) :]


def method_of(row: str) -> str:
    """The method that the row trains."""
    return row.removesuffix(LONG_SUFFIX)


def row_layer(row: str, threat: str) -> dict[str, Any]:
    """What makes the row, as a layer of a configuration under this ``threat``."""
    method = {"method": {"name": method_of(row)}}
    if row == method_of(row):
        return method
    # Ten digits: .22 * .2 is 0.044, not 0.044000000000000004.
    step = float(f"{LONG_STEP * threat_parts(threat)[1]:.10g}")
    return {**method, "attack": {"step_size": step}}


def reference_of(row: str, rows: Container[str]) -> str | None:
    """The row of ``rows`` that this one is compared with; None where there is none.

    For a mixture with a GD term the same mixture without it; for every other row SAT with the long
    step, the stronger baseline, or plain SAT where that was not run.
    """
    method = method_of(row)
    if method in _ABLATED:
        wanted = [_ABLATED[method] + row[len(method) :]]
    else:
        wanted = [LONG_BASELINE, BASELINE]
    found = next((name for name in wanted if name in rows), None)
    return None if found == row else found
