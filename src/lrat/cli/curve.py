"""``lrat curve``."""

from pathlib import Path
from typing import Annotated

import typer

from lrat.cli import options


def curve(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, all in one figure.")],
    attack: Annotated[str, typer.Option(help="See `lrat list attacks`.")] = "apgd-ce",
    max_epsilon: Annotated[
        float | None,
        typer.Option(help="Where the curve ends; by default at three times the trained epsilon."),
    ] = None,
    levels: Annotated[int, typer.Option(min=1, help="Steps of epsilon up to there.")] = 32,
    limit: Annotated[
        int, typer.Option(min=1, help="A fixed, stratified part of the images.")
    ] = 500,
    checkpoint: options.Checkpoint = "selected",
    seed: options.NoiseSeed = 0,
    batch_size: options.BatchSize = 256,
    data: options.Data = None,
    data_root: options.DataRoot = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The figure's file; in the first run's figures by default."),
    ] = None,
    acceleration: options.View = options.Acceleration.auto,
    device: options.DeviceName = "auto",
) -> None:
    """Accuracy against epsilon for one attack, from one search per image, as a figure."""
    from lrat.cli.progress import curve_progress
    from lrat.experiments.curves import CurveRequest, measure_curves

    request = CurveRequest(
        attack=attack,
        max_epsilon=max_epsilon,
        levels=levels,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        checkpoint=checkpoint,
        acceleration=acceleration.value,
        device=device,
    )
    with curve_progress() as progress:
        report = measure_curves(
            runs, request, data=data, data_root=data_root, out=out, progress=progress
        )
    print(report)
