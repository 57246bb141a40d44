"""What training costs on this device: seconds per 50,000 images, and the share of its peak.

    python benchmarks/gpu.py [--tiny] [--seconds N] [--out STEM]

Needs this repository, PyTorch >= 2.8 with numpy, and nothing else; ends within ``--seconds``
(by default under 8 minutes). ResNet-18 on random images of CIFAR-10's shape, batch 128 and 512:
steps of SAT and LRAT-SAA with and without folding, bfloat16, torch.compile and CUDA graphs,
extrapolated from a fixed number of steps; PGD-20 beside torchattacks where that can be imported.
Each variant runs in a process of its own: one that fails, hangs or breaks the device is named with
its error and the others go on. Prints Markdown; with ``--out`` writes STEM.md and STEM.json.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import gpu_rows
from gpu_rows import EPOCH_IMAGES, VARIANTS, Row, Size, Variant

LONGEST = 480.0
RESERVE = 10.0
"""Seconds kept for the report and for ending processes."""
MOST_PER_VARIANT = 150.0
LEAST_PER_VARIANT = 15.0
TINY_SKIPS = ("bfloat16, folded, compiled", "bfloat16, not folded", "float32, folded")


def importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def child_command(variant: Variant, *, tiny: bool) -> list[str]:
    """How to measure one variant in another process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--variant", variant.name]
    return [*command, "--tiny"] if tiny else command


def measure(variant: Variant, size: Size, command: Sequence[str], seconds: float) -> list[Row]:
    """The rows that a process of its own prints within ``seconds``, and errors for the others."""
    if variant.needs is not None and not importable(variant.needs):
        return _failed(variant, size, [], f"skipped: there is no {variant.needs} here")
    if variant.graphs and gpu_rows.device().type != "cuda":
        return _failed(variant, size, [], "skipped: CUDA graphs need CUDA")
    if seconds < LEAST_PER_VARIANT:
        return _failed(variant, size, [], "skipped: no time left")
    with subprocess.Popen(  # noqa: S603 - this very file
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
            reason = f"exit status {process.returncode}: {_last_line(errors)}"
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            reason = f"stopped after {seconds:.0f} s"
    found = []
    for line in output.splitlines():
        try:
            found.append(Row(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found + _failed(variant, size, found, reason)


def _failed(variant: Variant, size: Size, found: Sequence[Row], reason: str) -> list[Row]:
    """A row with the reason for each case that gave none."""
    done = {(row.what, row.batch) for row in found}
    return [
        Row(what=what, batch=batch, variant=variant.name, error=reason)
        for what, batch in variant.cases(size)
        if (what, batch) not in done
    ]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "nothing was said"


def record(row: Row, peak: float) -> dict[str, Any]:
    """The row with what follows from it."""
    values = asdict(row)
    if row.seconds is not None and row.flop is not None:
        values["seconds_per_epoch"] = row.seconds * EPOCH_IMAGES / row.batch
        values["flop_per_second"] = row.flop / row.seconds
        values["share_of_peak"] = row.flop / row.seconds / peak
    return values


def render(facts: dict[str, Any], records: Sequence[dict[str, Any]], size: Size) -> str:
    peak = facts["peak_flop_per_second"] / 1e12
    counts = ", ".join(f"{count} ({what})" for what, count in size.measured)
    lines = [
        "# Training on one device",
        "",
        f"`{facts['command']}`",
        "",
        f"{facts['device']}, torch {facts['torch']}. ResNet-18 of width {size.width}, random "
        f"images 3x{size.pixels}x{size.pixels}. SAT: PGD of {size.steps} steps; LRAT-SAA: 3 "
        f"targets x {size.saa_steps} steps; PGD alone: {size.pgd_steps} steps. Updates run in "
        f"float32 (TF32 allowed). Timed after {size.warm} untimed steps: {counts} steps. The peak "
        f"is a bfloat16 matrix product of {size.peak}: {peak:.4g} TFLOP/s; an image's forward is "
        f"{facts['forward_flop_per_image'] / 1e9:.4g} GFLOP.",
        "",
        f"| what | batch | variant | s per step | s per {EPOCH_IMAGES:,} images | share of peak "
        "| forwards + gradients per image | GiB at most | error or warning |",
        f"|{'---|' * 9}",
    ]
    for values in records:
        cells = [
            values["what"],
            str(values["batch"]),
            values["variant"],
            _number(values.get("seconds"), ".5f"),
            _number(values.get("seconds_per_epoch"), ".2f"),
            _number(values.get("share_of_peak"), ".1%"),
            values["passes_per_image"],
            _number(values["peak_memory_gib"], ".2f"),
            (values["error"] or values["warning"] or "").replace("|", "/"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None, style: str) -> str:
    return "" if value is None else format(value, style)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a size for any processor, in seconds")
    parser.add_argument("--seconds", type=float, default=LONGEST, help="what the run may take")
    parser.add_argument("--out", type=Path, help="stem of the .md and .json to write")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_here(name: str, size: Size) -> None:
    """The work of a child: a line of JSON per row, as soon as it is known."""
    (variant,) = (each for each in VARIANTS if each.name == name)
    for row in gpu_rows.rows(variant, size):
        print(json.dumps(asdict(row)), flush=True)


def main() -> None:
    end = time.monotonic() - RESERVE
    chosen = arguments()
    end += chosen.seconds
    size = Size.tiny() if chosen.tiny else Size()
    gpu_rows.allow_fast_float32()
    if chosen.variant is not None:
        measure_here(chosen.variant, size)
        return
    device = gpu_rows.device()
    if device.type != "cuda" and not chosen.tiny:
        sys.exit("no CUDA device here: --tiny shows that the script runs")
    facts = {
        "command": " ".join(["python benchmarks/gpu.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "peak_flop_per_second": gpu_rows.measured_peak(size),
        "forward_flop_per_image": gpu_rows.forward_flop(size),
    }
    if device.type == "cuda":
        torch.cuda.empty_cache()
    records = []
    for variant in VARIANTS:
        if chosen.tiny and variant.name in TINY_SKIPS:
            continue
        allowed = min(end - time.monotonic(), MOST_PER_VARIANT)
        found = measure(variant, size, child_command(variant, tiny=chosen.tiny), allowed)
        records += [record(row, facts["peak_flop_per_second"]) for row in found]
        print(f"{variant.name}: {len(found)} rows", file=sys.stderr, flush=True)
    result = render(facts, records, size)
    print(result, end="")
    if chosen.out is not None:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.with_suffix(".md").write_text(result)
        stored = json.dumps({**facts, "rows": records}, indent=1)
        chosen.out.with_suffix(".json").write_text(stored + "\n")


if __name__ == "__main__":
    main()
