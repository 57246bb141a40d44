"""``lrat evaluate`` and ``lrat merge``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lrat.cli import options
from lrat.text import as_command


def evaluate(
    run: options.Run = None,
    checkpoint: options.Checkpoint = "selected",
    suite: options.Suite = "quick",
    threat: options.Threat = None,
    limit: options.Limit = None,
    time: Annotated[
        str | None,
        typer.Option(help="Stop after so long (90s, 30m, 2h) with the images finished by then."),
    ] = None,
    seed: options.NoiseSeed = 0,
    batch_size: options.BatchSize = 256,
    model: options.Model = None,
    weights: options.Weights = None,
    normalize: options.Normalize = None,
    data: options.Data = None,
    data_root: options.DataRoot = None,
    size: options.Size = None,
    channels: Annotated[
        int | None, typer.Option(help="1: image files are read as grey; 3 by default.")
    ] = None,
    out: options.Out = None,
    loss: Annotated[
        str | None, typer.Option(help="FILE.py:NAME: adaptive attacks on your own loss, added.")
    ] = None,
    transfer: Annotated[
        list[Path] | None, typer.Option(help="A run folder: adds attacks computed on its model.")
    ] = None,
    images: Annotated[
        bool, typer.Option("--images", help="Keep the adversarial images (safetensors).")
    ] = False,
    gallery: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="So many images are kept for `lrat report`, also of a finished evaluation; "
            "32 by default.",
        ),
    ] = None,
    noise: Annotated[
        options.Noise, typer.Option(help="sequential: draw as AutoAttack's original does.")
    ] = options.Noise.keyed,
    part: Annotated[
        str | None,
        typer.Option(help="i/n: only this part of the images, as one of several machines."),
    ] = None,
    devices: options.Devices = None,
    nodes: options.Nodes = 1,
    masking: Annotated[
        bool | None,
        typer.Option(help="Check for gradient masking; by default after suites with AutoAttack."),
    ] = None,
    acceleration: options.View = options.Acceleration.auto,
    device: options.DeviceName = "auto",
) -> None:
    """Attack a run's model, or a model of your own, on its test images."""
    from lrat.cli.progress import evaluation_progress
    from lrat.experiments.evaluate import evaluate_subject
    from lrat.experiments.evaluation_request import EvaluationRequest
    from lrat.runs.sources import ModelSource

    request = EvaluationRequest(
        suite=suite,
        threat=threat,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        acceleration=acceleration.value,
        device=device,
        loss=loss,
        transfer=tuple(transfer or ()),
        seconds=None if time is None else options.seconds_in(time),
        keep_images=images,
        gallery=gallery,
        noise=noise.value,
        part=None if part is None else options.fraction_of(part),
        devices=devices,
        nodes=nodes,
        typed=as_command("lrat", *sys.argv[1:])
        if part is None
        else None,  # a part alone is not the evaluation
    )
    request.check()
    source = ModelSource(
        run=run,
        checkpoint=checkpoint,
        model=model,
        weights=weights,
        normalize=normalize,
        data=data,
        data_root=data_root,
        size=size,
        channels=channels,
        out=out,
    )
    if devices is not None:
        from lrat.experiments.evaluate_parallel import evaluate_in_processes

        joined = evaluate_in_processes(source, request, evaluation_progress)
        if joined is None:  # the first of the processes speaks
            return
        folder, result = joined
        subject = None
    else:
        subject = source.load(threat)
        with evaluation_progress() as progress:
            folder, result = evaluate_subject(subject, request, progress)
    print(result)
    if folder is not None:
        print(f"evidence in {folder}")
    # By itself only for all images without a time limit.
    by_itself = bool(result.stages) and part is None and time is None
    if by_itself if masking is None else masking:
        from lrat.experiments.masking import examine

        subject = subject or source.load(threat)
        print(f"\n{examine(subject, request, folder=folder, result=result)}")


def merge(
    folders: Annotated[
        list[Path], typer.Argument(help="Evaluation folders, as `lrat evaluate --part` left them.")
    ],
    out: Annotated[Path, typer.Option(help="The joined folder; may be one of them.")],
) -> None:
    """Join the parts of one evaluation by several machines."""
    from lrat.evaluation.merge import merge as join

    joined = join(folders, out)
    print(joined)
    print(f"evidence in {out}")
