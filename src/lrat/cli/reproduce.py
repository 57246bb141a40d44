"""``lrat reproduce``."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from lrat.cli.options import DataRoot, Set


def reproduce(
    target: Annotated[
        str, typer.Argument(help="table1, table2, figure1 ... figure6 (or 1a ...), sensitivity.")
    ],
    preset: Annotated[
        str, typer.Option(help="digits, fashion-mnist, cifar10-small or cifar10.")
    ] = "digits",
    rows: Annotated[
        str | None, typer.Option(help="Only these, as sat,lrat-saa; of a sensitivity its studies.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="How many, as 3, or which, as 0,2; the preset's by default.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Parallel runs.")] = None,
    data_root: DataRoot = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many test images meet the whole suite.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="quick, tier, paper or strong instead of the usual one.")
    ] = None,
    set_: Set = None,
    also: Annotated[
        list[Path] | None,
        typer.Option(help="Figure 2: a results folder of another preset, shown too; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Results folder; results/PRESET by default.")
    ] = None,
) -> None:
    """The paper's tables and figures on a preset: trains, attacks, writes. The same command goes
    on where an interrupted one stopped."""
    from lrat.cli.progress import rows_progress, show_tables
    from lrat.reproduce.make import reproduce_target
    from lrat.reproduce.presets import Choice
    from lrat.reproduce.request import Request, check_target, rows_in, seeds_in

    check_target(target)
    choice = Choice.of(preset, set_ or (), data_root)
    request = Request(
        target=target,
        choice=choice,
        out=Path("results") / preset if out is None else out,
        rows=None if rows is None else rows_in(rows, target),
        seeds=None if seeds is None else seeds_in(seeds),
        workers=workers,
        suite=suite,
        limit=limit,
        also=tuple(also or ()),
        command=shlex.join(["lrat", *sys.argv[1:]]),
    )
    with rows_progress() as watcher:
        report = reproduce_target(request, watcher)
    show_tables(report.tables, report.conclusion)
    for failure in report.failed:
        print(f"failed: {failure}")
    print(f"{report.seconds:.0f} s; written: {', '.join(map(str, report.paths))}")
