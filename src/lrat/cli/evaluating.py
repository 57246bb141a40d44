"""``lrat evaluate``."""

from pathlib import Path
from typing import Annotated

import typer

from lrat.cli.options import Acceleration, Data, DataRoot, Limit, Profile, Threat


def evaluate(
    run: Annotated[Path | None, typer.Argument(help="A run folder.")] = None,
    checkpoint: Annotated[str, typer.Option(help="selected, last or epoch-N.")] = "selected",
    suite: Annotated[str, typer.Option(help="See `lrat list suites`.")] = "quick",
    threat: Threat = None,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(min=0, help="Root of the attacks' noise.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1)] = 256,
    model_file: Annotated[
        str | None, typer.Option(help="Instead of a run: FILE.py:FUNCTION returning an nn.Module.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Its weights, .safetensors.")] = None,
    data: Data = None,
    data_root: DataRoot = None,
    out: Annotated[
        Path | None, typer.Option(help="With --model-file: folder for the evidence.")
    ] = None,
    acceleration: Annotated[
        Acceleration, typer.Option(help="auto: attacks see a faster, checked view of the model.")
    ] = Acceleration.auto,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    profile: Profile = False,
) -> None:
    """Attack a run's model, or a model of your own, on its test images."""
    from lrat.experiments.attack_progress import evaluation_progress
    from lrat.experiments.evaluating import EvaluationRequest, evaluate_file, evaluate_run

    request = EvaluationRequest(
        suite=suite,
        threat=threat,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        acceleration=acceleration.value,
        device=device,
    )
    if profile:
        from lrat.experiments.profiling import profile_evaluation

        measured = profile_evaluation(
            request,
            run=run,
            checkpoint=checkpoint,
            model_file=model_file,
            weights=weights,
            data=data,
            data_root=data_root,
        )
        print(measured)
        return
    with evaluation_progress() as progress:
        if run is not None and not (model_file or weights or out):
            place, result = evaluate_run(
                run,
                request,
                checkpoint=checkpoint,
                data=data,
                data_root=data_root,
                progress=progress,
            )
            folder: Path | None = place
        else:
            folder, result = evaluate_file(
                request,
                run=run,
                model_file=model_file,
                weights=weights,
                data=data,
                data_root=data_root,
                out=out,
                progress=progress,
            )
    print(result)
    if folder is not None:
        print(f"evidence in {folder}")
