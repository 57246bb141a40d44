"""Options that several commands share.

What people write on a command line, as values.
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lrat.errors import SettingError

Data = Annotated[
    str | None,
    typer.Option(help="digits, cifar10, folder:PATH, npz:PATH, ...; see `lrat list data`."),
]
DataRoot = Annotated[str | None, typer.Option(help="Folder of the data set's official files.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Threat = Annotated[str | None, typer.Option(help="linf:8/255, linf:0.1, l2:0.5, ...")]
Seed = Annotated[int | None, typer.Option(min=0, help="Root of every random number.")]
Limit = Annotated[int | None, typer.Option(min=1, help="A fixed, stratified part of the images.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting, as training.lr=0.05; repeatable.")
]
Run = Annotated[Path | None, typer.Argument(help="A run folder.")]
Checkpoint = Annotated[str, typer.Option(help="selected, last or epoch-N.")]
Suite = Annotated[str, typer.Option(help="A name of `lrat list suites`, or FILE.yaml.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "--model-file",
        help="resnet-18, timm:NAME, torchvision:NAME, hf:FOLDER, FILE.py:FUNCTION, ...; see "
        "`lrat list models`.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(help="Its weights: .safetensors, .pt, .pth, .ckpt, or FILE#KEY inside."),
]
Normalize = Annotated[
    str | None,
    typer.Option(help="imagenet, cifar10, MEAN,...;STD,... or none; by default the model's own."),
]
Size = Annotated[
    int | None, typer.Option(min=1, help="Pixels of a side that image files are resized to.")
]
Devices = Annotated[
    int | None,
    typer.Option(help="So many processes: on CUDA one per GPU, on the CPU of one thread each."),
]
Nodes = Annotated[int, typer.Option(help="So many machines, each with --devices.")]
Out = Annotated[Path | None, typer.Option(help="With --model: folder for the evidence.")]

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


class Noise(StrEnum):
    """Typer's way to name two words."""

    keyed = "keyed"
    sequential = "sequential"


class Acceleration(StrEnum):
    """Typer's way to name two words."""

    auto = "auto"
    off = "off"


NoiseSeed = Annotated[int, typer.Option(min=0, help="Root of the attacks' noise.")]
BatchSize = Annotated[int, typer.Option(min=1)]
View = Annotated[
    Acceleration, typer.Option(help="auto: attacks see a faster, checked view of the model.")
]
DeviceName = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def given(**values: Any) -> dict[str, Any]:
    """The options that were given, nested by the dots in their names."""
    nested: dict[str, Any] = {}
    for path, value in values.items():
        if value is None:
            continue
        *sections, key = path.split("__")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[key] = value
    return nested


def seconds_in(text: str) -> float:
    """``90``, ``90s``, ``30m`` or ``2h`` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None or not float(match[1]):
        raise SettingError(f"time {text!r}: write 90s, 30m or 2h")
    return float(match[1]) * _UNITS[match[2]]


def fraction_of(text: str) -> tuple[int, int]:
    """``2/4`` as (2, 4): the second of four parts."""
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise SettingError(f"part {text!r}: write i/n with i from 1 to n, as 2/4")
    return int(match[1]), int(match[2])
