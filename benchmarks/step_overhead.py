"""What a training step costs beside its attacks and its update, in a real run.

    python benchmarks/step_overhead.py [--data-root DIR] [--epochs 3] [--out FILE.md]

Trains as `lrat train` does, checkpoints and records included, and counts processor seconds: those
of the attacks, of the update (scoring, backward, optimiser), and all others of the steps, from the
second step of an epoch on (at the first, guards look at the batch). One thread. Each row is the
epoch in which the others' share was smallest; the median is beside it.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch

from lrat.config.settings import load_config
from lrat.experiments.train import train_run
from lrat.training import EpochRecord, StepProgress
from lrat.training.step import Stepper

DIGITS = {"data": {"name": "digits"}, "threat": "linf:0.2", "training": {"batch_size": 64}}
CIFAR10 = {
    "data": {"name": "cifar10", "train_limit": 1024, "validation": 0.0},
    "model": {"name": "resnet-18", "width": 16},
    "training": {"batch_size": 64, "selection": "last"},
}


@dataclass
class Clock:
    """Processor seconds by kind in the epoch under way, and the shares of those that are done."""

    counted: dict[str, float] = field(default_factory=dict)
    shares: list[float] = field(default_factory=list)
    began: float = 0.0

    def around(self, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **named: Any) -> Any:
            started = time.process_time()
            try:
                return call(*arguments, **named)
            finally:
                spent = time.process_time() - started
                self.counted[kind] = self.counted.get(kind, 0.0) + spent

        return counting

    def on_step(self, progress: StepProgress) -> None:
        now = time.process_time()
        if progress.step == 1:
            # The first step of an epoch also ends the epoch before it: counting begins after it.
            self.began, self.counted = now, {}
            return
        whole = now - self.began
        known = sum(self.counted.values())
        self.latest = (whole - known) / whole

    def on_epoch(self, record: EpochRecord) -> None:
        self.shares.append(self.latest)


def share(method: str, settings: Mapping[str, Any], epochs: int) -> tuple[float, float]:
    """Smallest and median share of an epoch's steps that is neither attack nor update."""
    training = {**settings["training"], "epochs": epochs}
    config = load_config({**settings, "method": {"name": method}, "training": training})
    clock = Clock()
    attack = clock.around("attack", Stepper._attack)
    score = clock.around("update", Stepper._score)
    judge = clock.around("update", Stepper._judge)
    step = clock.around("update", torch.optim.SGD.step)
    with (
        TemporaryDirectory() as folder,
        mock.patch.object(Stepper, "_attack", attack),
        mock.patch.object(Stepper, "_score", score),
        mock.patch.object(Stepper, "_judge", judge),
        mock.patch.object(torch.optim.SGD, "step", step),
    ):
        train_run(config, Path(folder) / "run", progress=clock)
    return min(clock.shares), statistics.median(clock.shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [("sat", "digits, small-cnn", DIGITS), ("lrat-saa+cw", "digits, small-cnn", DIGITS)]
    if options.data_root is not None:
        data = {**CIFAR10["data"], "root": options.data_root}
        rows.append(("sat", "CIFAR-10, resnet-18 width 16", {**CIFAR10, "data": data}))
    lines = [
        "# What a step costs beside attacks and update",
        "",
        "`python benchmarks/step_overhead.py --data-root DATA --out step_overhead.md`",
        "",
        "Of the processor seconds of an epoch's steps in a real run (records, checkpoints), from "
        "the second step on (guards look at the first batch), batch 64, one thread, "
        f"{options.epochs} epochs; wanted: at most 8 %. "
        f"{platform.machine()}, PyTorch {torch.__version__}.",
        "",
        "| run | best epoch | median |",
        "| --- | ---: | ---: |",
    ]
    for method, what, settings in rows:
        best, median = share(method, settings, options.epochs)
        lines.append(f"| {method}, {what} | {100 * best:.1f} % | {100 * median:.1f} % |")
    text = "\n".join([*lines, ""])
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
