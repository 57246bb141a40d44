"""``lrat why``."""

from pathlib import Path
from typing import Annotated

import typer

from lrat.cli.options import Acceleration, Checkpoint, Data, DataRoot, DeviceName, Threat


def why(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    index: Annotated[int, typer.Argument(min=0, help="The image's number, as in the outcomes.")],
    suite: Annotated[
        str | None,
        typer.Option(help="By default that of the largest finished evaluation, else quick."),
    ] = None,
    checkpoint: Checkpoint = "selected",
    threat: Threat = None,
    data: Data = None,
    data_root: DataRoot = None,
    out: Annotated[
        Path | None, typer.Option(help="The figure's file; in the run's figures by default.")
    ] = None,
    acceleration: Annotated[
        Acceleration, typer.Option(help="How attacks see the model, where nothing is stored.")
    ] = Acceleration.auto,
    device: DeviceName = "auto",
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
