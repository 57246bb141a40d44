"""``lrat export``."""

from pathlib import Path
from typing import Annotated

import typer

from lrat.cli import options


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    to: Annotated[
        str, typer.Option(help="safetensors, onnx, torch-export, hub-folder; several by commas.")
    ] = "safetensors",
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("exported"),
    checkpoint: options.Checkpoint = "selected",
) -> None:
    """Write a run's model as files for other programs, and compare each with the model."""
    from lrat.experiments.export import export as write

    print(
        write(
            run,
            [name.strip() for name in to.split(",") if name.strip()],
            out,
            checkpoint=checkpoint,
        )
    )
