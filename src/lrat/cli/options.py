"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

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
Run = Annotated[Path | None, typer.Argument(help="A run folder.")]
Checkpoint = Annotated[str, typer.Option(help="selected, last or epoch-N.")]
Suite = Annotated[str, typer.Option(help="A name of `lrat list suites`, or FILE.yaml.")]
ModelFile = Annotated[
    str | None, typer.Option(help="Instead of a run: FILE.py:FUNCTION returning an nn.Module.")
]
Weights = Annotated[Path | None, typer.Option(help="Its weights, .safetensors.")]
Devices = Annotated[
    int | None,
    typer.Option(help="So many processes: on CUDA one per GPU, on the CPU of one thread each."),
]
Nodes = Annotated[int, typer.Option(help="So many machines, each with --devices.")]
Out = Annotated[Path | None, typer.Option(help="With --model-file: folder for the evidence.")]


class Noise(StrEnum):
    """Typer's way to name two words."""

    keyed = "keyed"
    sequential = "sequential"


class Acceleration(StrEnum):
    """Typer's way to name two words."""

    auto = "auto"
    off = "off"


def given(**values: Any) -> dict[str, Any]:
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
