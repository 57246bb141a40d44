"""``lrat train`` and ``lrat demo``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lrat.cli import options
from lrat.text import as_command


def train(
    method: Annotated[str | None, typer.Argument(help="See `lrat list methods`.")] = None,
    data: options.Data = None,
    data_root: options.DataRoot = None,
    size: options.Size = None,
    model: options.Model = None,
    weights: options.Weights = None,
    normalize: options.Normalize = None,
    threat: options.Threat = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    seed: options.Seed = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; runs/METHOD-DATA-SEED by default.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML, as a run's config.yaml.")] = None,
    set_: options.Set = None,
    device: options.Device = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(metavar="N", help="Save and end after N minutes; see --portable."),
    ] = None,
    portable: Annotated[
        bool,
        typer.Option("--portable", help="Leave a small checkpoint: float16, no momentum."),
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(help="tensorboard or FILE.py:FUNCTION; repeatable."),
    ] = None,
    devices: options.Devices = None,
    nodes: options.Nodes = 1,
) -> None:
    """Train a classifier. The same command continues an interrupted run."""
    from lrat.cli.progress import training_progress
    from lrat.config.settings import load_config, parse_assignments, read_settings
    from lrat.distributed.launch import check_devices
    from lrat.distributed.signals import check_minutes
    from lrat.errors import Paused
    from lrat.experiments.train import TrainedRun, train_in_processes, train_run
    from lrat.runs.folder import default_folder

    given = options.given(
        method__name=method,
        data__name=data,
        data__root=data_root,
        data__size=size,
        model__name=model,
        model__weights=weights,
        model__normalize=normalize,
        training__epochs=epochs,
        training__trackers=track or None,
        threat=threat,
        seed=seed,
        device=device,
    )
    settings = load_config(
        {} if config is None else read_settings(config, follow=True),
        given,
        parse_assignments(set_ or []),
    )
    check_devices(settings.device, devices, nodes)
    check_minutes(max_minutes, name="--max-minutes ")
    folder = default_folder(settings) if out is None else out
    report: TrainedRun | None
    try:
        if devices is not None:
            report = train_in_processes(
                settings,
                folder,
                devices=devices,
                nodes=nodes,
                watcher=training_progress,
                max_minutes=max_minutes,
                portable=portable,
                command=as_command("lrat", *sys.argv[1:]),
            )
        else:
            with training_progress(settings) as progress:
                report = train_run(
                    settings,
                    folder,
                    progress=progress,
                    max_minutes=max_minutes,
                    portable=portable,
                    command=as_command("lrat", *sys.argv[1:]),
                )
    except Paused as paused:
        print(paused)
        return
    if report is not None:  # the first of the processes speaks
        print(report)
