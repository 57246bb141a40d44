"""The report as a file."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lrat.errors import ConfigurationError
from lrat.experiments.report.collecting import collect_report

_PAGE = b"<!doctype html"


@dataclass(frozen=True, kw_only=True)
class Written:
    """A report that was written: of how many runs, its size in bytes, the seconds it took, and what
    it says first."""

    path: Path
    runs: int
    size: int
    seconds: float
    summary: tuple[str, ...]

    def __str__(self) -> str:
        """The summary, and where the page lies."""
        count = "1 run" if self.runs == 1 else f"{self.runs} runs"
        made = f"{count}, {self.size / 1e6:.1f} MB, {self.seconds:.1f} s: {self.path}"
        return "\n".join([*self.summary, made])


def write_run_report(
    places: Sequence[Path | str],
    out: Path | str,
    *,
    title: str | None = None,
    suite: str | None = None,
    command: str | None = None,
) -> Written:
    """Write one self-contained page about the runs at ``places`` to ``out``.

    A place: a run folder, one of its evaluations, evaluations of somebody's model, or a folder that
    holds runs. ``suite``: only evaluations of it. What cannot be shown is told on the page.

    Raises ``LratError`` where there is no run at all, for a ``suite`` that nobody has, and for an
    ``out`` that is a folder, a file that is no page, or cannot be written.
    """
    from lrat.reporting.report import write_report

    started = time.perf_counter()
    path = Path(out)
    _check_place(path)
    record = collect_report(
        [Path(place) for place in places], title=title, suite=suite, command=command
    )
    size = write_report(record, path)
    return Written(
        path=path,
        runs=len(record.runs),
        size=size,
        seconds=time.perf_counter() - started,
        summary=tuple(record.summary),
    )


def _check_place(path: Path) -> None:
    """A slip of the hand must not cost a run its configuration or a user a file."""
    if path.is_dir():
        raise ConfigurationError(f"--out {path} is a folder: name a file, as {path}/report.html")
    if not path.exists():
        return
    if not path.is_file():
        raise ConfigurationError(f"--out {path} is no plain file: name one, as report.html")
    try:
        with path.open("rb") as file:
            start = file.read(len(_PAGE))
    except OSError:
        start = b""  # what cannot be read is not overwritten unseen: writing tells the reason
    if start and start.lower() != _PAGE:
        raise ConfigurationError(
            f"--out {path} is there and is no page of HTML: name another file, as report.html"
        )
