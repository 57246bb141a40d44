"""What a reproduction reports while its runs are trained and evaluated."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class RowsProgress:
    """``done`` of ``total`` runs; the seconds that the others take if they take as long as those
    of this call, None before the first of these."""

    done: int
    total: int
    seconds_left: float | None


@runtime_checkable
class Watcher(Protocol):
    """Called with what happens while the runs are trained and evaluated."""

    def say(self, line: str) -> None: ...

    def progress(self, now: RowsProgress) -> None: ...
