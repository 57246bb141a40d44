"""What it costs to train in slices that are carried as float16 weights without momentum.

    python benchmarks/slices.py [--data NAME] [--data-root PATH] [--seeds N] [--epochs N]
        [--batch N] [--lr RATE] [--limit N] [--methods NAME ...] [--work FOLDER] [--out FILE]
        [--quick]

Each run is trained whole, and with breaks in the middle of epochs after which it goes on from its
portable checkpoint. Everything else is the same, so differences are paired by seed. The whole run's
selected weights are also attacked after rounding them alone. Prints a Markdown table of accuracies
on test images, of the epoch selected on held-out ones; with ``--out`` also writes it. Runs that lie
in the work folder already are not made again.
"""

import argparse
import os
import shlex
import signal
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scipy import stats

import lrat
from lrat.config import build
from lrat.config.settings import RunConfig, load_config
from lrat.errors import Interrupted
from lrat.experiments.evaluate import evaluate_run
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.experiments.train import train_run
from lrat.files.read import read_json
from lrat.files.write import write_json, write_text
from lrat.runs.folder import read_config
from lrat.runs.weights import fill, load_weights
from lrat.threat import as_ball
from lrat.training import EpochRecord, StepProgress
from lrat.training.checkpoint_format import portable, restored
from measuring import environment

ATTACKS = ("natural", "pgd-20", "cw-20")


class Break:
    """Has the run stop after the step that completes half of an epoch (from 1)."""

    def __init__(self, epoch: int | None) -> None:
        self.epoch = epoch
        self.came = False

    def on_step(self, progress: StepProgress) -> None:
        half = (progress.images_per_epoch or 0) / 2
        size = progress.images / progress.step
        if progress.epoch == self.epoch and progress.images - size < half <= progress.images:
            self.came = True
            os.kill(os.getpid(), signal.SIGTERM)

    def on_epoch(self, record: EpochRecord) -> None:
        return

    def say(self, line: str) -> None:
        return


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train: with breaks in these epochs."""

    name: str
    breaks: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Accuracy in per cent by attack, and megabytes of checkpoints at the last break."""

    accuracy: Mapping[str, float]
    carried: float | None


def arms(epochs: int) -> list[Arm]:
    quarters = tuple(sorted({max(1, round(epochs * part / 4)) for part in (1, 2, 3)}))
    return [
        Arm(name="whole", breaks=()),
        Arm(name=f"{len(quarters)} breaks", breaks=quarters),
        Arm(name=f"a break in each of {epochs} epochs", breaks=tuple(range(1, epochs + 1))),
    ]


def trained(config: RunConfig, arm: Arm, folder: Path, limit: int | None) -> Trained:
    """What came of a run; trained and attacked if that was not done before."""
    kept = folder.with_suffix(".json")
    if kept.exists():
        return Trained(**read_json(kept))
    found = made(config, arm, folder, limit)
    write_json(kept, asdict(found))
    return found


def made(config: RunConfig, arm: Arm, folder: Path, limit: int | None) -> Trained:
    carried = None
    for epoch in arm.breaks:
        stop = Break(epoch)
        try:
            train_run(config, folder, progress=stop, portable=True)
        except Interrupted:
            if not stop.came:
                raise
            found = sum(path.stat().st_size for path in (folder / "checkpoints").iterdir())
            carried = found / 1e6
        else:
            raise SystemExit(f"{folder} was not stopped in epoch {epoch}: remove it")
    train_run(config, folder, progress=Break(None))
    _, result = evaluate_run(folder, EvaluationRequest(suite="quick", limit=limit))
    shares = {name: 100 * result.accuracy[name].value for name in ATTACKS}
    return Trained(accuracy=shares, carried=carried)


def rounded(folder: Path, limit: int | None) -> Trained:
    """What a run's selected weights are worth after they were carried as float16."""
    config = read_config(folder)
    test = build.data(config.data, config.seed).test
    model = build.model(config, test.shape, test.classes)
    names = [name for name, _ in model.named_parameters()]
    state = {"model": load_weights(folder, config, "selected")}
    fill(model, restored(portable(state, names))["model"], str(folder))
    result = lrat.evaluate(model, test, threat=as_ball(config.threat), suite="quick", limit=limit)
    return Trained(
        accuracy={name: 100 * result.accuracy[name].value for name in ATTACKS}, carried=None
    )


def row(name: str, found: Sequence[Trained], whole: Sequence[Trained]) -> list[str]:
    """Means over seeds, with the paired difference to the whole runs and its 95 % interval."""
    cells = []
    for attack in ATTACKS:
        values = [run.accuracy[attack] for run in found]
        cell = f"{statistics.fmean(values):.2f}"
        if found is not whole:
            changes = [
                run.accuracy[attack] - other.accuracy[attack]
                for run, other in zip(found, whole, strict=True)
            ]
            cell += f" ({statistics.fmean(changes):+.2f} ± {half_width(changes):.2f})"
        cells.append(cell)
    carried = found[0].carried
    return [name, *cells, "" if carried is None else f"{carried:.2f} MB"]


def half_width(values: Sequence[float]) -> float:
    """Of Student's 95 % interval of the mean."""
    if len(values) < 2:
        return float("nan")
    quantile = float(stats.t.ppf(0.975, len(values) - 1))
    return quantile * statistics.stdev(values) / len(values) ** 0.5


def settings(method: str, seed: int, asked: argparse.Namespace) -> RunConfig:
    chosen: dict[str, Any] = {
        "method": {"name": method},
        "attack": {"steps": asked.steps, "saa_steps": asked.steps},
        "data": {"name": asked.data, "root": asked.data_root, "train_limit": asked.train},
        "model": {"width": asked.width},
        "training": {"epochs": asked.epochs, "batch_size": asked.batch, "lr": asked.lr},
        "seed": seed,
    }
    return load_config(chosen)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root")
    parser.add_argument("--methods", nargs="+", default=["sat", "lrat-saa+cw"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=5, help="of PGD, CW and SAA in training")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--train", type=int, help="so many training images")
    parser.add_argument("--limit", type=int, help="so many test images")
    parser.add_argument("--work", type=Path, default=Path("runs/slices"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it runs")
    asked = parser.parse_args()
    if asked.quick:
        asked.methods, asked.seeds, asked.epochs, asked.steps = ["sat"], 2, 2, 1
        asked.width, asked.train, asked.limit = 4, 100, 20
    return asked


def main() -> None:
    asked = options()
    lines = []
    for method in asked.methods:
        whole: list[Trained] = []
        for arm in arms(asked.epochs):
            found = [
                trained(
                    settings(method, seed, asked),
                    arm,
                    asked.work / f"{asked.data}-{method}-{len(arm.breaks)}-{seed}",
                    asked.limit,
                )
                for seed in range(asked.seeds)
            ]
            lines.append(row(f"{method}, {arm.name}", found, whole or found))
            if not whole:
                whole = found
                stem = f"{asked.data}-{method}-0"
                carried = [
                    rounded(asked.work / f"{stem}-{seed}", asked.limit)
                    for seed in range(asked.seeds)
                ]
                lines.append(row(f"{method}, whole, weights then rounded", carried, whole))
    titles = ["", *ATTACKS, "checkpoints carried"]
    table = "\n".join(
        f"| {' | '.join(cells)} |" for cells in [titles, ["---"] * len(titles), *lines]
    )
    text = (
        "# Training in slices\n\n"
        f"`python {shlex.join(sys.argv)}`\n\n"
        f"{environment()}. Accuracy in per cent on test images, mean of {asked.seeds} seeds; in "
        "brackets the mean of the paired differences to the whole runs with Student's 95 % "
        f"interval.\n\n{table}\n"
    )
    print(text, end="")
    if asked.out is not None:
        write_text(asked.out, text)


if __name__ == "__main__":
    main()
