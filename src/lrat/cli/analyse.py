"""``lrat analyse``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lrat.cli import options


class Part(StrEnum):
    """Typer's way to name two words."""

    train = "train"
    test = "test"


def analyse(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    checkpoint: options.Checkpoint = "selected",
    part: Annotated[Part, typer.Option(help="Which of the run's images.")] = Part.train,
    limit: options.Limit = None,
    top: Annotated[float, typer.Option(help="The share that is called most vulnerable.")] = 0.2,
    points: Annotated[
        int, typer.Option(min=0, help="Images in the t-SNE; 0 for none, above 5000: openTSNE.")
    ] = 2000,
    seed: options.NoiseSeed = 0,
    again: Annotated[
        bool, typer.Option("--again", help="Both attacks once more, from other random starts.")
    ] = False,
    saa: Annotated[bool, typer.Option("--saa", help="SAA's margins as well.")] = False,
    batch_size: options.BatchSize = 256,
    data: options.Data = None,
    data_root: options.DataRoot = None,
    acceleration: options.View = options.Acceleration.auto,
    device: options.DeviceName = "auto",
) -> None:
    """How vulnerable each image is in several views, where they disagree, what the weights did."""
    from lrat.cli.progress import evaluation_progress
    from lrat.experiments.analyse.analyse import AnalysisRequest, analyse_run

    request = AnalysisRequest(
        checkpoint=checkpoint,
        part=part.value,
        limit=limit,
        top=top,
        points=points,
        seed=seed,
        again=again,
        saa=saa,
        batch_size=batch_size,
        acceleration=acceleration.value,
        device=device,
    )
    with evaluation_progress() as progress:
        analysis = analyse_run(run, request, data=data, data_root=data_root, progress=progress)
    print(analysis)
