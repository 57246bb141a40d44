"""What a reproduction says of itself while it makes its runs."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class RowsProgress:
    """``done`` of ``total`` runs; the seconds that the others take if they take as long as those
    that were made in this call, None before the first of these."""

    done: int
    total: int
    seconds_left: float | None


@runtime_checkable
class Watcher(Protocol):
    """Called with what happens while the runs are made."""

    def say(self, line: str) -> None: ...

    def progress(self, now: RowsProgress) -> None: ...
