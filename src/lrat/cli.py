"""The command line: parses, calls ``lrat.experiments``, prints; nothing else.

torch is imported inside the commands alone, so that ``lrat --help`` answers at once.
"""

import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from lrat import __version__
from lrat.errors import Interrupted, LratError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Adversarial training with local reweighting (LRAT), its baselines, and their evaluation.",
)

Data = Annotated[
    str | None, typer.Option(help="digits, cifar10, ... or npz:PATH; see `lrat list data`.")
]
DataRoot = Annotated[str | None, typer.Option(help="Folder of the data set's official files.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Threat = Annotated[str | None, typer.Option(help="linf:8/255, linf:0.1, l2:0.5, ...")]
Seed = Annotated[int | None, typer.Option(min=0, help="Root of every random number.")]
Limit = Annotated[int | None, typer.Option(min=1, help="A fixed, stratified part of the images.")]
Profile = Annotated[
    bool, typer.Option("--profile", help="Only measure where the time goes; writes nothing.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting, as training.lr=0.05; repeatable.")
]


class Acceleration(StrEnum):
    """Typer's way to name two words."""

    auto = "auto"
    off = "off"


def _given(**values: Any) -> dict[str, Any]:
    """The options that were given, nested by the dots in their names."""
    nested: dict[str, Any] = {}
    for path, value in values.items():
        if value is None:
            continue
        *sections, key = path.split("__")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return nested


@app.command()
def train(
    method: Annotated[str | None, typer.Argument(help="See `lrat list methods`.")] = None,
    data: Data = None,
    data_root: DataRoot = None,
    model: Annotated[
        str | None, typer.Option(help="small-cnn, resnet-18 or FILE.py:FUNCTION.")
    ] = None,
    threat: Threat = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    seed: Seed = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; runs/METHOD-DATA-SEED by default.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML, as a run's config.yaml.")] = None,
    set_: Set = None,
    device: Device = None,
    profile: Profile = False,
) -> None:
    """Train a classifier. The same command continues an interrupted run."""
    from lrat.experiments.config import load_config, parse_assignments, read_yaml
    from lrat.experiments.folder import default_folder
    from lrat.experiments.run import train_run
    from lrat.experiments.terminal import training_progress

    options = _given(
        method__name=method,
        data__name=data,
        data__root=data_root,
        model__name=model,
        training__epochs=epochs,
        threat=threat,
        seed=seed,
        device=device,
    )
    settings = load_config(
        {} if config is None else read_yaml(config), options, parse_assignments(set_ or [])
    )
    if profile:
        from lrat.experiments.profiling import profile_training

        print(profile_training(settings))
        return
    folder = default_folder(settings) if out is None else out
    with training_progress(settings) as progress:
        report = train_run(settings, folder, progress=progress)
    print(report)


@app.command()
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


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A run or evaluation folder.")],
    second: Annotated[Path, typer.Argument(help="Another one, evaluated on the same images.")],
    suite: Annotated[
        str | None, typer.Option(help="Which evaluation, where there are several.")
    ] = None,
) -> None:
    """Paired tests of two runs on the same images (exact McNemar)."""
    from lrat.experiments.evaluating import compare_runs

    comparison = compare_runs(first, second, suite=suite)
    print(f"a: {first}\nb: {second}\n\n{comparison}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/demo"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Fewer for a quick look.")] = None,
    suite: Annotated[str, typer.Option()] = "tier",
    workers: Annotated[int | None, typer.Option(min=1, help="Parallel rows.")] = None,
) -> None:
    """Train and attack the rows of the paper's Table 1 on bundled handwritten digits."""
    from lrat.experiments.demo import PAPER_TITLE, run_demo
    from lrat.experiments.terminal import rows_progress, show_tables

    count = workers or _processors()
    with rows_progress() as watcher:
        report = run_demo(out, epochs=epochs, suite=suite, workers=count, watcher=watcher)
    show_tables({report.title: report.table, PAPER_TITLE: report.paper}, report.conclusion)
    print(f"{report.seconds:.0f} s; this table is in {report.path}")


def _processors() -> int:
    """Those that this process may use: in a container or under a scheduler not all there are."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, attacks, suites, data or models.")],
) -> None:
    """What there is, a line each."""
    from lrat.errors import UnknownNameError
    from lrat.experiments.catalogue import ALIASES, CATALOGUES

    if what not in CATALOGUES:
        raise UnknownNameError("list", what, CATALOGUES)
    entries = dict(CATALOGUES[what])
    if what == "methods":
        entries |= {alias: f"the same as {name}" for alias, name in ALIASES.items()}
    width = max(map(len, entries))
    for name, description in entries.items():
        print(f"{name.ljust(width)}  {description}")


def _show_version(wanted: bool) -> bool:
    if wanted:
        print(f"lrat {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More of what happens.")] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s: %(message)s",
        stream=sys.stderr,
    )


def main() -> None:
    """Entry point: an error of ours or of usage is one line and status 2, an interrupted run 130.

    Without arguments it shows the help.
    """
    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except Interrupted as stopped:
        _fail(str(stopped), 130)
    except LratError as error:
        _fail(str(error), 2)
    except Exception as error:
        # typer's own: their classes live in typer or in click, depending on typer's version.
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        _fail(f"{explain().rstrip('.')}; {_help_hint(error)} shows what there is", 2)
    if status == 130:
        _fail("interrupted", 130)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> NoReturn:
    print(f"lrat: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def _help_hint(error: Exception) -> str:
    """``lrat train --help``: the help of the command that was used wrongly."""
    context = getattr(error, "ctx", None)
    command = "" if context is None or context.parent is None else f" {context.info_name}"
    return f"`lrat{command} --help`"


if __name__ == "__main__":
    main()
