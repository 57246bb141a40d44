"""``lrat why``."""

from pathlib import Path
from typing import Annotated

import typer

from lrat.cli import options


def why(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    index: Annotated[int, typer.Argument(min=0, help="The image's number, as in the outcomes.")],
    suite: Annotated[
        str | None,
        typer.Option(help="By default that of the largest finished evaluation, else quick."),
    ] = None,
    checkpoint: options.Checkpoint = "selected",
    threat: options.Threat = None,
    data: options.Data = None,
    data_root: options.DataRoot = None,
    out: Annotated[
        Path | None, typer.Option(help="The figure's file; in the run's figures by default.")
    ] = None,
    acceleration: Annotated[
        options.Acceleration,
        typer.Option(help="How attacks see the model, where nothing is stored."),
    ] = options.Acceleration.auto,
    device: options.DeviceName = "auto",
) -> None:
    """Everything about one test image: verdicts, margins step by step, pictures."""
    from lrat.experiments.why import explain

    explanation = explain(
        run,
        index,
        suite_name=suite,
        checkpoint=checkpoint,
        threat=threat,
        data=data,
        data_root=data_root,
        out=out,
        acceleration=acceleration.value,
        device=device,
    )
    print(explanation)
