"""The results of the masking checks, as a table and as JSON."""

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from lrat.errors import DataError
from lrat.files.read import NOT_AS_WRITTEN

Status = Literal["passed", "not run", "suspicious", "failed"]
"""From best to worst. ``suspicious``: above the limit, but chance may explain it on so few images;
``not run``: the check could not run, which is no evidence for the model either."""

FROM_BEST: tuple[Status, ...] = get_args(Status)
_WIDTH = 100
_INDENT = "    "


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check: its value, the limit up to which it is passed, and its meaning.

    ``value`` and ``limit`` are None where there is nothing to measure. ``sentence`` describes the
    result and, unless it is passed, the cure.
    """

    name: str
    status: Status
    value: float | None
    limit: float | None
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """All checks of one model under one threat, on ``n`` images.

    ``notes``: sentences about problems of the model that no check covers.
    """

    checks: tuple[Check, ...]
    n: int
    threat: str
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """The worst of the checks."""
        return max((check.status for check in self.checks), key=FROM_BEST.index, default="not run")

    def __getitem__(self, name: str) -> Check:
        """The check of this name; ``KeyError`` for another."""
        return {check.name: check for check in self.checks}[name]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``from_dict`` reads them back."""
        return {
            "status": self.status,
            "n": self.n,
            "threat": self.threat,
            "checks": [asdict(check) for check in self.checks],
            "notes": list(self.notes),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Panel":
        """The panel of ``as_dict``; ``DataError`` for other values."""
        try:
            checks = tuple(map(_check, values["checks"]))
            panel = Panel(
                checks=checks,
                n=int(values["n"]),
                threat=str(values["threat"]),
                notes=tuple(map(str, values.get("notes", ()))),
            )
            known = all(check.status in FROM_BEST for check in checks)
        except NOT_AS_WRITTEN as error:
            raise DataError(
                f"this is no masking panel ({type(error).__name__}: {error}): run the checks again"
            ) from None
        if not known:
            raise DataError(f"a status other than {', '.join(FROM_BEST)}: run the checks again")
        return panel

    def __str__(self) -> str:
        """Columns check, status, value and limit; below each row its sentence."""
        rows = [("check", "status", "value", "limit")]
        rows += [
            (check.name, check.status, _number(check.value), _number(check.limit))
            for check in self.checks
        ]
        name, status, value, limit = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = [
            f"{row[0]:<{name}}  {row[1]:<{status}}  {row[2]:>{value}}  {row[3]:>{limit}}".rstrip()
            for row in rows
        ]
        body = [
            f"{line}\n{textwrap.fill(check.sentence, _WIDTH, **_INDENTED)}"
            for line, check in zip(lines[1:], self.checks, strict=True)
        ]
        rule = "-" * (name + status + value + limit + 6)
        about = f"masking: {self.status}; n {self.n}, {self.threat}"
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([lines[0], rule, *body, about, *notes])


_INDENTED: dict[str, Any] = {"initial_indent": _INDENT, "subsequent_indent": _INDENT}


def _check(values: Mapping[str, Any]) -> Check:
    check = Check(**values)
    texts, numbers = (check.name, check.sentence), (check.value, check.limit)
    if not all(isinstance(each, str) for each in texts) or not all(
        each is None or type(each) in {int, float} for each in numbers
    ):
        raise TypeError("a value of a check is not of its kind")
    return check


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
