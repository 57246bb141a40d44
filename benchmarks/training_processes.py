"""What a second process is worth in training: images per second of the same run in one and several.

    python benchmarks/training_processes.py [--method sat] [--data cifar10] [--data-root FOLDER]
        [--model resnet-18] [--width 16] [--images 2048] [--batch-size 128] [--epochs 3]
        [--processes 2] [--rounds 3] [--into results/benchmarks/processes.md]

The commands are those that a user types, ``lrat train`` and the same with ``--devices N``, in
turns, with one thread per process and the same batch, that of all processes together. Taken is what
each epoch says of its steps (attack, update, exchange; not the start of the interpreters, nor the
measurements after an epoch); the ratio is that of the best epochs. A quiet machine with at least as
many cores as processes is needed. ``--into`` writes the section into a file, in the place of the
one that is there.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lrat.files.write import write_text
from lrat.hardware import processors
from measuring import processor, run_lrat

HEADING = "# Training in several processes"


@dataclass(kw_only=True)
class Contestant:
    """A number of processes; images per second of its epochs by round, and the last loss."""

    processes: int
    rounds: list[list[float]] = field(default_factory=list)
    loss: float = float("nan")

    @property
    def name(self) -> str:
        return f"{self.processes} process{'es' if self.processes > 1 else ''} of one thread"

    @property
    def best(self) -> float:
        return max(speed for epochs in self.rounds for speed in epochs)

    def run(self, command: Sequence[str], folder: Path) -> None:
        """One round: the run from its beginning to its end."""
        run_lrat(*command, "--out", str(folder), processes=self.processes)
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        self.rounds.append([record["images_per_second"] for record in records])
        self.loss = records[-1]["loss"]


def command_of(chosen: argparse.Namespace) -> list[str]:
    """The run, without its number of processes and its folder."""
    settings = {
        "model.width": chosen.width,
        "data.train_limit": chosen.images,
        "data.validation": 0,
        "training.selection": "last",
        "training.batch_size": chosen.batch_size,
        "threads": 1,
    }
    command = ["train", chosen.method, "--data", chosen.data, "--model", chosen.model]
    command += ["--epochs", str(chosen.epochs), "--device", "cpu"]
    command += ["--data-root", chosen.data_root] if chosen.data_root else []
    return command + [f"--set={key}={value}" for key, value in settings.items()]


def written(contestants: Sequence[Contestant], chosen: argparse.Namespace) -> str:
    """The measurement in Markdown."""
    alone = contestants[0].best
    lines = [
        HEADING,
        "",
        f"`python benchmarks/training_processes.py`: `{chosen.method}` with {chosen.model} of "
        f"width {chosen.width} on {chosen.images:,} images of {chosen.data}, batch "
        f"{chosen.batch_size} of all processes together, {chosen.epochs} epochs, {chosen.rounds} "
        "rounds in turns. Images per second of the steps. "
        f"{processor()}, {processors()} cores, PyTorch "
        f"{torch.__version__}.",
        "",
        "| what | images/s | all epochs by round | last loss | times as fast |",
        "| --- | --- | --- | --- | --- |",
    ]
    for each in contestants:
        rounds = "; ".join(", ".join(f"{speed:.1f}" for speed in epochs) for epochs in each.rounds)
        ratio = each.best / alone
        lines.append(
            f"| {each.name} | {each.best:.1f} | {rounds} | {each.loss:.4f} | {ratio:.2f} |"
        )
    return "\n".join(lines)


def put(section: str, path: Path) -> None:
    """Write the section into a file, in the place of an earlier one or at its end."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    kept, _, old = before.partition(HEADING)
    _, mark, after = old.partition("\n# ")
    kept = f"{kept.rstrip()}\n\n" if kept.strip() else ""
    write_text(path, f"{kept}{section}\n" + (f"{mark}{after}" if mark else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--method", default="sat")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-root")
    parser.add_argument("--model", default="resnet-18")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--into", type=Path)
    chosen = parser.parse_args()
    contestants = [Contestant(processes=1), Contestant(processes=chosen.processes)]
    command = command_of(chosen)
    with tempfile.TemporaryDirectory() as place:
        for number in range(chosen.rounds):
            for each in contestants:
                each.run(command, Path(place) / f"{each.processes}-{number}")
    text = written(contestants, chosen)
    print(text)
    if chosen.into is not None:
        put(text, chosen.into)


if __name__ == "__main__":
    main()
