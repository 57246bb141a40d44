"""The report as a file: run folders to a ``ReportRecord``, and that to a page."""

import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import lrat
from lrat.config.catalogue import SUITES
from lrat.errors import ConfigurationError, LratError, RunFolderError, UnknownNameError
from lrat.reporting.report.collect.findings import make_groups, over_seeds
from lrat.reporting.report.collect.locate import LocatedRun, find_runs
from lrat.reporting.report.collect.runs import collect_run
from lrat.reporting.report.collect.summary import summary
from lrat.reporting.report.records import ReportRecord
from lrat.runs.folder import evaluated, is_of, named_paths
from lrat.text import counted, reason

_PAGE = b"<!doctype html"

_logger = logging.getLogger(__name__)

DEFAULT_TITLE = "Robustness report"


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
        cost = f"{self.size / 1e6:.1f} MB, {self.seconds:.1f} s"
        return "\n".join([*self.summary, f"{counted(self.runs, 'run')}, {cost}: {self.path}"])


def write_run_report(
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    title: str | None = None,
    suite: str | None = None,
    command: str | None = None,
) -> Written:
    """Write one self-contained page about the runs at ``paths`` to ``out``.

    A path, or NAME=PATH, is a run folder, one of its evaluations, evaluations of a user's model, or
    a folder that holds runs. ``suite``: only evaluations of it. The page says what cannot be shown.

    Raises ``LratError`` where there is no run at all, for a ``suite`` that no run has, and for an
    ``out`` that is a folder, a file that is no page, or cannot be written.
    """
    from lrat.reporting.report.page.render import write_report

    started = time.perf_counter()
    path = Path(out)
    _check_out(path)
    folders, names = named_paths(paths)
    record = collect_report(folders, names=names, title=title, suite=suite, command=command)
    size = write_report(record, path)
    return Written(
        path=path,
        runs=len(record.runs),
        size=size,
        seconds=time.perf_counter() - started,
        summary=tuple(record.summary),
    )


def _check_out(path: Path) -> None:
    """Refuse to overwrite anything but a page: a mistyped path would lose a user's file."""
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


def collect_report(
    paths: Sequence[Path],
    *,
    names: Mapping[Path, str] | None = None,
    title: str | None = None,
    suite: str | None = None,
    command: str | None = None,
) -> ReportRecord:
    """What the runs at ``paths`` have stored (see ``locate.find_runs``), ready to be shown, under
    the ``names`` that the user gave.

    ``suite``: only evaluations of it. ``command``: the one that wrote the report. What is damaged
    or missing becomes a sentence in the record's or a run's ``problems``; ``LratError`` is raised
    where there is no run at all.
    """
    located, problems = find_runs(paths, names)
    collected = []
    for run in _of_suite(located, suite):
        try:
            collected.append(collect_run(run))
        except Exception as error:
            # A file that another person wrote may hold anything; the other runs are shown.
            _logger.info("where %s could not be read", run.folder, exc_info=True)
            kind = "" if isinstance(error, LratError | OSError) else f"{type(error).__name__}: "
            problems.append(
                f"{run.name} is left out: {kind}{reason(error).rstrip('.')}"
                f"{f' ({error.filename})' if isinstance(error, OSError) else ''}."
            )
    if not collected:
        raise RunFolderError(" ".join(problems).rstrip("."))
    runs = [each.record for each in collected]
    groups = make_groups(
        {each.record.name: each.evaluations for each in collected},
        {run.name: run.training_seed for run in runs},
    )
    return ReportRecord(
        title=title or DEFAULT_TITLE,
        command=command or shlex.join(["lrat", "report", *map(str, paths)]),
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        version=lrat.__version__,
        summary=summary(runs, groups, over_seeds(collected)),
        groups=groups,
        runs=runs,
        problems=problems,
    )


def _of_suite(runs: Sequence[LocatedRun], suite: str | None) -> list[LocatedRun]:
    """The runs with their evaluations of ``suite`` alone; all of them where it is None."""
    if suite is None:
        return list(runs)
    chosen = [
        replace(run, evaluations=tuple(each for each in run.evaluations if _is_of(each, suite)))
        for run in runs
    ]
    if any(run.evaluations for run in chosen):
        return chosen
    if suite not in SUITES:
        there = {str(evaluated(each, "suite")) for run in runs for each in run.evaluations}
        raise UnknownNameError("suite", suite, {*SUITES, *there})
    raise RunFolderError(
        f"no run has an evaluation of {suite}: run `lrat evaluate RUN --suite {suite}`, or leave "
        "--suite out"
    )


def _is_of(evaluation: Path, suite: str) -> bool:
    """As ``folder.is_of``; also True where the identity cannot be read: reading says so later."""
    try:
        return is_of(evaluation, suite)
    except RunFolderError:
        return True
