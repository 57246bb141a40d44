"""``lrat demo``."""

from pathlib import Path
from typing import Annotated

import typer

from lrat.cli.options import Acceleration, Suite


def demo(
    out: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/demo"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Fewer for a quick look.")] = None,
    suite: Suite = "paper",
    acceleration: Annotated[
        Acceleration, typer.Option(help="off: attacks see the model itself.")
    ] = Acceleration.auto,
    workers: Annotated[int | None, typer.Option(min=1, help="Parallel rows.")] = None,
) -> None:
    """Train and attack the rows of the paper's Table 1 on bundled handwritten digits."""
    from lrat.cli.progress import rows_progress, show_tables
    from lrat.hardware import processors
    from lrat.reproduce.demo import run_demo

    with rows_progress() as watcher:
        report = run_demo(
            out,
            suite=suite,
            epochs=epochs,
            acceleration=acceleration.value,
            workers=workers or processors(),
            watcher=watcher,
        )
    show_tables(report.tables, report.conclusion)
    table, page = report.paths
    print(f"{report.seconds:.0f} s; this table is in {table}")
    print(f"everything about the runs: {page}")
