"""``lrat report``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lrat.text import as_command


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Run folders, folders that hold some, as runs/demo, or NAME=FOLDER."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="What the page is called.")] = None,
    suite: Annotated[
        str | None, typer.Option(help="Only evaluations of this one; all by default.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """One page about runs that opens without a network: tables, curves, images, commands."""
    from lrat.reporting.report import write_run_report

    written = write_run_report(
        runs or [], out, title=title, suite=suite, command=as_command("lrat", *sys.argv[1:])
    )
    print(written)
    if open_:
        typer.launch(written.path.resolve().as_uri())
