"""What `lrat reproduce` makes: Tables 1 and 2 here, figures and sensitivities by their modules.

Runs that a table lacks are trained and attacked, the others are read.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lrat.errors import LratError
from lrat.files.write import write_json, write_text
from lrat.reproduce import table_text
from lrat.reproduce.cell import Attacks, run_task
from lrat.reproduce.evidence import read_runs
from lrat.reproduce.figures.make import reproduce_figure
from lrat.reproduce.folder import finished_runs, note_in_history
from lrat.reproduce.make_runs import attacks_of, make_runs, ordered_rows, tasks_of
from lrat.reproduce.paper import TABLE_1, TABLE_2, PaperRow
from lrat.reproduce.presets import BASELINE, LONG_BASELINE
from lrat.reproduce.progress import Watcher
from lrat.reproduce.request import SENSITIVITY, TABLES, Report, Request
from lrat.reproduce.sensitivity import reproduce_sensitivity
from lrat.reproduce.tables import Table, make_table
from lrat.text import to_markdown

_PAPER: Mapping[str, PaperRow] = {**TABLE_1, **TABLE_2}
_ROWS: Mapping[str, Sequence[str]] = {
    "table1": (
        *(BASELINE, LONG_BASELINE, "gairat", "lsat-cw", "lsat-saa", "lsat-saa+cw"),
        *("lrat-cw", "lrat-saa", "lrat-saa+cw"),
    ),
    "table2": ("lrat-cw", "gd+cw", "lrat-saa", "gd+saa", "lrat-saa+cw", "saa+cw+gd"),
}
"""Table 1 with SAT of the long step and with the control that the paper's LRAT lacks; Table 2 with
each mixture before the same one with a GD term."""
_REWRITE_SHARE = 20
"""A table under way is written anew when so many times the time that it takes have passed."""


def reproduce_table(request: Request, watcher: Watcher) -> Report:
    """Make ``table1`` or ``table2``: runs, evaluations, ``OUT/tableN.md`` and ``.json``.

    Whatever is finished below OUT already is read back, and rows or seeds of an
    earlier call are in the table too. The tables are also written while runs go on.
    """
    rows = ordered_rows(request, table_rows(request))
    attacks = attacks_of(request)
    failed: list[str] = []
    wrote = began = time.perf_counter()
    for run in make_runs(request, tasks_of(request, rows, attacks), watcher):
        if run.failure is not None:
            failed.append(f"{run.name}: {run.failure}")
        elif time.perf_counter() - wrote > _REWRITE_SHARE * (wrote - began):
            began = time.perf_counter()
            _written(request, rows, attacks, failed)
            wrote = time.perf_counter()
    table = _written(request, rows, attacks, failed)
    return Report(
        tables=table_text.in_brief(table),
        conclusion=table_text.conclusion(table),
        paths=(request.out / f"{request.target}.md", request.out / f"{request.target}.json"),
        about=f"{len(table.rows)} rows, {sum(len(row.seeds) for row in table.rows)} runs",
        failed=tuple(failed),
    )


def table_rows(request: Request) -> tuple[str, ...]:
    """The rows of the requested table, with those that its preset adds to Table 1."""
    added = request.choice.preset.rows if request.target == "table1" else ()
    return (*_ROWS[request.target], *added)


def _written(
    request: Request, rows: Sequence[str], attacks: Attacks, failed: Sequence[str]
) -> Table:
    """The table of everything that is finished, in its two files."""
    table, other = collected(request, rows, attacks, failed)
    write_json(request.out / f"{request.target}.json", _record(request, attacks, table, other))
    write_text(request.out / f"{request.target}.md", markdown(request, attacks, table, other))
    return table


def collected(
    request: Request, rows: Sequence[str], attacks: Attacks, failed: Sequence[str] = ()
) -> tuple[Table, Table | None]:
    """The tables of everything below OUT with the requested attacks, of this or an earlier call:
    of the reported weights, and of the other epoch, None where no run has one. Both name what
    either lacks. ``LratError`` where there is nothing to show."""
    rows_of_target, choice = table_rows(request), request.choice
    finished = finished_runs(request.out)
    tasks = [
        run_task(choice, run.folder, run.row, run.seed, attacks)
        for row in dict.fromkeys((*rows_of_target, *rows))
        for run in finished
        if run.row == row
    ]
    (first, lacking), (second, also) = (read_runs(tasks, number=number) for number in (0, 1))
    lacking = list(dict.fromkeys((*lacking, *also)))
    if not first:
        reasons = "; ".join((*failed, *lacking)) or "none is finished"
        raise LratError(f"no run of {request.target} can be shown: {reasons}")
    reported, *other = [
        make_table(
            request.target,
            runs,
            _PAPER,
            source=choice.source,
            missing=[row for row in rows_of_target if row not in runs],
            lacking=lacking,
            failed=failed,
        )
        for runs in (first, second)
        if runs
    ]
    return reported, next(iter(other), None)


def _record(
    request: Request, attacks: Attacks, table: Table, other: Table | None
) -> dict[str, Any]:
    return {
        "preset": request.choice.record(),
        "command": request.command,
        "suite": attacks.suite,
        "limit": attacks.limit,
        **table.record(),
        "other epoch": None if other is None else other.record(),
    }


def markdown(request: Request, attacks: Attacks, table: Table, other: Table | None) -> str:
    """The table, the differences, what they show, the other epoch, costs and every run."""
    preset = request.choice.preset
    on = "all test images" if attacks.limit is None else f"{attacks.limit} test images"
    suite = (
        f"suite {attacks.suite} on {on}"
        if attacks.limit is None or attacks.suite == "quick"
        else f"natural, pgd-20 and cw-20 on all test images, the rest of suite {attacks.suite} "
        f"and the worst case on {on}"
    )
    changed = f" Changed for all rows: {', '.join(request.choice.set)}." * bool(request.choice.set)
    about = [
        f"Preset {preset.name}: {preset.about}.{changed} {table.threat}; {suite}; weights of "
        f"{table_text.epochs(table)}.",
        table_text.about_intervals(table),
        "Paper: CIFAR-10, ResNet-18, Linf 8/255, 10,000 images, one run; compare the order of "
        "rows and their differences, not the values.",
        *(f"Not run: {', '.join(table.missing)}." for _ in table.missing[:1]),
        *(f"Left out, {each}." for each in (*table.lacking, *table.failed)),
    ]
    return "\n".join(
        [
            f"# Table {request.target[-1]} on {preset.name}",
            "",
            " ".join(about),
            "",
            to_markdown(table_text.scores(table)),
            table_text.to_text("Differences in points", table_text.differences(table)),
            table_text.LEGEND,
            "",
            table_text.conclusion(table),
            "",
            *(() if other is None else table_text.other_epoch(table, other)),
            table_text.to_text("Cost and masking", table_text.costs(table)),
            "Forwards and backwards of training per image and epoch; seconds of its steps, which "
            "depend on what else the machine did. Masking: the panel's verdict and the checks that "
            "were not passed, in so many of the runs.",
            "",
            table_text.to_text("Every run, accuracy in per cent", table_text.per_run(table)),
            *(() if other is None else (to_markdown(table_text.per_run(other)),)),
            f"Made by `{request.command}`.",
            "",
        ]
    )


def reproduce_target(request: Request, watcher: Watcher) -> Report:
    """Make what ``request.target`` names, and note it in the folder's history. Raises ``LratError``
    in one line."""
    started, target = time.perf_counter(), request.target
    targets = {**dict.fromkeys(TABLES, reproduce_table), SENSITIVITY: reproduce_sensitivity}
    report = targets.get(target, reproduce_figure)(request, watcher)
    seconds = time.perf_counter() - started
    note_in_history(request.out, target, request.command, seconds=seconds, about=report.about)
    return replace(report, seconds=seconds)
