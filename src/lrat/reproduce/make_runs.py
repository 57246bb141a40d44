"""Trains and attacks the runs of a reproduction in worker processes."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

from lrat import hardware
from lrat.config import build
from lrat.config.catalogue import MODELS
from lrat.distributed.children import run_tasks
from lrat.distributed.signals import stopping
from lrat.errors import Interrupted
from lrat.hardware import processors
from lrat.reproduce.cell import Attacks, MadeRun, RunTask, make_named, run_task, test_count
from lrat.reproduce.folder import check, claim, run_folder
from lrat.reproduce.progress import RowsProgress, Watcher
from lrat.reproduce.request import Request
from lrat.text import duration


def ordered_rows(request: Request, rows: Sequence[str]) -> list[str]:
    """The rows to train, in the order in which they matter: those of the request, or ``rows`` of
    the target with the preset's first ones first."""
    if request.rows is not None:
        return list(request.rows)
    first = request.choice.preset.first
    return [*(row for row in first if row in rows), *(row for row in rows if row not in first)]


def attacks_of(request: Request) -> Attacks:
    """The suite, by default the paper's, and on how many images."""
    limit = request.limit or request.choice.preset.autoattacked
    return Attacks(suite=request.suite or "paper", limit=limit)


def tasks_of(request: Request, rows: Sequence[str], attacks: Attacks) -> list[RunTask]:
    """The runs of ``rows`` with their seeds below ``OUT/runs``."""
    return [
        run_task(request.choice, run_folder(request.out, row, seed), row, seed, attacks)
        for row in rows
        for seed in request.seeds_of(row)
    ]


def make_runs(request: Request, tasks: Sequence[RunTask], watcher: Watcher) -> Iterator[MadeRun]:
    """Train and attack in worker processes; the runs as they end.

    Everything that can be refused is refused before the first file is written.
    """
    for task in {task.row: task for task in tasks}.values():
        build.objective(task.config)
    check(request.out, request.choice)
    for task in tasks:
        test_count(task.config.data, task.seed)
    workers = workers_of(request, len(tasks))
    tasks = [_with_threads(task, workers) for task in tasks]
    claim(request.out, request.choice)
    watcher.say(ahead(request, tasks, workers))
    yield from make_cells(tasks, workers=workers, watcher=watcher, out=request.out)


def failures(runs: Iterable[MadeRun]) -> list[str]:
    """``NAME: why`` of each run that could not be trained, when all have ended."""
    return [f"{run.name}: {run.failure}" for run in runs if run.failure is not None]


def ahead(request: Request, tasks: Sequence[RunTask], workers: int) -> str:
    """How many runs, on what and where."""
    preset, first = request.choice.preset, tasks[0]
    device = hardware.device(first.config.device)
    warning = ""
    if preset.for_gpu and device.type == "cpu":
        warning = f"warning: preset {preset.name} is meant for a GPU, this is a CPU; "
    threads = first.config.threads or 1
    return (
        f"{warning}{request.target} on {preset.name}: {len(tasks)} runs on {workers} worker "
        f"process{'' if workers == 1 else 'es'} of {threads} thread"
        f"{'' if threads == 1 else 's'}, {device.type}; runs in {request.out}"
    )


def workers_of(request: Request, tasks: int) -> int:
    """``--workers``; else one per processor, on a GPU one. Never more than there are tasks."""
    device = hardware.device(request.choice.config("sat", 0).device)
    most = 1 if device.type == "cuda" else processors()
    return max(1, min(request.workers or most, tasks))


def _with_threads(task: RunTask, workers: int) -> RunTask:
    """With the processors shared out among workers, for networks that more threads help."""
    row = MODELS.get(task.config.model.name)
    if task.config.threads is not None or (row is not None and row.threads is not None):
        return task
    threads = max(1, processors() // workers)
    return replace(task, config=task.config.model_copy(update={"threads": threads}))


def in_order(tasks: Sequence[RunTask], workers: int) -> list[RunTask]:
    """The order to begin runs in, from the order of preference.

    One seed begins before the next, so that a table has all rows for its first seeds early. Within
    a seed those with SAA begin first, which cost six times the others, so that no worker is idle
    for long at the end; one worker is never idle and keeps the order of preference.
    """
    return sorted(tasks, key=lambda task: (task.seed, workers > 1 and "saa" not in task.row))


def make_cells(
    tasks: Sequence[RunTask], *, workers: int, watcher: Watcher, out: Path, what: str = "runs"
) -> Iterator[MadeRun]:
    """``make_run`` of every task, in worker processes, as they end.

    What a run wrote before it was interrupted is what the next call goes on from. Raises
    ``Interrupted``, or the ``LratError`` of a run, when the others have saved themselves.
    """
    started, workers = time.perf_counter(), min(workers, len(tasks))
    names = [task.name for task in in_order(tasks, workers)]
    make = partial(make_named, tasks={task.name: task for task in tasks})
    seconds: list[float] = []

    def announce(reason: str) -> None:
        watcher.say(
            f"{reason}: stopping when the rows under way have saved themselves; a second signal "
            "stops at once"
        )

    watcher.progress(RowsProgress(done=0, total=len(tasks), seconds_left=None))
    with stopping(announce) as stop:
        try:
            ended = run_tasks(make, names, workers=workers, stop=stop)
            for done, run in enumerate(ended, start=1):
                seconds += [run.seconds] * (not run.was_finished)
                left = fmean(seconds) * (len(tasks) - done) / workers if seconds else None
                line = f"{run.name}: {run}; {done} of {len(tasks)} {what} done"
                if left:
                    elapsed = time.perf_counter() - started
                    line += f", {duration(elapsed)} elapsed, about {duration(left)} left"
                watcher.say(line)
                watcher.progress(RowsProgress(done=done, total=len(tasks), seconds_left=left))
                yield run
        except Interrupted as stopped:
            raise Interrupted(
                f"{stopped}; what was trained is saved in {out}: the same command continues"
            ) from None
