"""The runs that a reproduction needs, made in worker processes: which, and where."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lrat import hardware
from lrat.config.catalogue import MODELS
from lrat.hardware import processors
from lrat.reproduce.cell import Attacks, MadeRun, Maker, RunTask
from lrat.reproduce.evidence import test_count
from lrat.reproduce.folder import check, claim, run_folder, run_name
from lrat.reproduce.grid import Watcher, in_order, make_cells
from lrat.reproduce.request import Request, check_rows


def wanted_rows(request: Request, own: Sequence[str]) -> list[str]:
    """The rows to make, in the order in which they matter: those asked for, or ``own`` of the
    target with the preset's first ones first."""
    if request.rows is not None:
        return list(request.rows)
    first = request.choice.preset.first
    return [*(row for row in first if row in own), *(row for row in own if row not in first)]


def attacks_of(request: Request) -> Attacks:
    """The suite, by default the paper's, and on how many images."""
    limit = request.limit or request.choice.preset.autoattacked
    return Attacks(suite=request.suite or "paper", limit=limit)


def make_runs(
    request: Request, rows: Sequence[str], attacks: Attacks, watcher: Watcher
) -> Iterator[MadeRun]:
    """Train and attack ``rows`` with their seeds below ``OUT/runs``, as they end.

    Everything that can be refused is refused before the first file is written.
    """
    seeds = {row: request.seeds_of(row) for row in rows}
    check_rows(request.choice, rows, [min(map(min, seeds.values()))])
    check(request.out, request.choice)
    places = [
        (row, number, run_folder(request.out, row, number)) for row in rows for number in seeds[row]
    ]
    workers = workers_of(request, len(places))
    choice = replace(request.choice, threads=threads_of(request, workers))
    tasks = {}
    for row, number, folder in places:
        config = choice.config(row, number)
        tasks[row, number] = RunTask(
            name=run_name(row, number),
            config=config,
            folder=folder,
            checkpoints=choice.checkpoints(config),
            attacks=attacks,
            images=test_count(config.data, number),
        )
    claim(request.out, request.choice)
    numbers = sorted({number for _, number in tasks})
    rounds = [[tasks[row, number] for row in rows if (row, number) in tasks] for number in numbers]
    yield from make_tasks(request, rounds, workers, watcher)


def make_tasks(
    request: Request, rounds: Sequence[Sequence[RunTask]], workers: int, watcher: Watcher
) -> Iterator[MadeRun]:
    """The tasks of all rounds in worker processes, after a line about what is ahead."""
    tasks = [task for part in rounds for task in part]
    watcher.say(ahead(request, tasks, workers))
    yield from make_cells(
        Maker(tasks),
        in_order([[task.name for task in part] for part in rounds], workers),
        workers=workers,
        watcher=watcher,
        out=request.out,
        what="runs",
        told=str,
    )


def ahead(request: Request, tasks: Sequence[RunTask], workers: int) -> str:
    """How many runs, on what and where."""
    preset, first = request.choice.preset, tasks[0]
    place = hardware.device(first.config.device)
    warning = ""
    if preset.for_gpu and place.type == "cpu":
        warning = f"warning: preset {preset.name} is meant for a GPU, this is a CPU; "
    threads = first.config.threads or 1
    return (
        f"{warning}{request.target} on {preset.name}: {len(tasks)} runs on {workers} worker "
        f"process{'' if workers == 1 else 'es'} of {threads} thread"
        f"{'' if threads == 1 else 's'}, {place.type}; runs in {request.out}"
    )


def workers_of(request: Request, tasks: int) -> int:
    """As asked; else one per processor, on a GPU one. Never more than there are tasks."""
    place = hardware.device(request.choice.config("sat", 0).device)
    own = 1 if place.type == "cuda" else processors()
    return max(1, min(request.workers or own, tasks))


def threads_of(request: Request, workers: int) -> int | None:
    """The processors shared out among workers, for networks that more threads help."""
    row = MODELS.get(request.choice.config("sat", 0).model.name)
    if row is not None and row.threads is not None:
        return None
    return max(1, processors() // workers)
