"""``lrat compare``."""

from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(help="Runs or evaluation folders on the same images, or NAME=FOLDER."),
    ],
    suite: Annotated[
        str | None, typer.Option(help="Which evaluation, where there are several.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Also write everything into this JSON file.")
    ] = None,
) -> None:
    """Which of several runs is better, and whether this many images and seeds can tell.

    Two runs: paired tests on the same images. Three or more: runs that differ in their seed alone
    are one group, and every group is compared with that of the first run. One run: how far its
    evaluations with several attack seeds differ.
    """
    from lrat.experiments.compare import compare_places

    compared = compare_places(runs, suite=suite)
    print(compared)
    if json is not None:
        compared.write(json)
