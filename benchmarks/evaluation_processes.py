"""What a second process is worth: wall seconds of one evaluation in one process and in several.

    python benchmarks/evaluation_processes.py RUN [--suite tier] [--limit 4000] [--processes 2]
        [--rounds 3] [--data-root FOLDER] [--out FILE.md]

The commands are those that a user types, ``lrat evaluate RUN`` and the same with ``--devices N``,
from the start of the interpreter to its end, each on a copy of the run without evaluations, in
turns. Every process has one thread. The ratio is that of the best rounds; a quiet machine with at
least as many cores as processes is needed. What starting costs, three interpreters instead of one
for two processes, is the same command once more, when nothing is left to do. Also checked: the
verdicts are the same.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from lrat.evaluation import EvaluationResult
from lrat.files.write import write_text
from lrat.hardware import processors
from measuring import processor, run_lrat

LEFT_OUT = ("evaluations", "checkpoints", "weights", "figures", ".lock")


@dataclass(kw_only=True)
class Contestant:
    """A number of processes, and the wall seconds of its rounds."""

    processes: int
    seconds: list[float] = field(default_factory=list)
    starting: list[float] = field(default_factory=list)
    result: EvaluationResult | None = None

    @property
    def name(self) -> str:
        return f"{self.processes} process{'es' if self.processes > 1 else ''} of one thread"

    def run(self, copy: Path, options: Sequence[str]) -> None:
        """One round, from nothing, and one with nothing left to do."""
        shutil.rmtree(copy / "evaluations", ignore_errors=True)
        self.seconds.append(self._timed(copy, options))
        self.starting.append(self._timed(copy, options))
        (folder,) = (copy / "evaluations").iterdir()
        self.result = EvaluationResult.from_folder(folder)

    def _timed(self, copy: Path, options: Sequence[str]) -> float:
        started = time.perf_counter()
        run_lrat("evaluate", str(copy), *options, processes=self.processes)
        return time.perf_counter() - started


def same_verdicts(results: Sequence[EvaluationResult | None]) -> bool:
    first, *others = [result.outcomes for result in results if result is not None]
    return all(
        np.array_equal(getattr(first, name), getattr(other, name))
        for other in others
        for name in ("index", "attack", "fooled")
    )


def written(contestants: Sequence[Contestant], run: str, options: Sequence[str]) -> str:
    """The measurement in Markdown."""
    alone = min(contestants[0].seconds)
    result = contestants[0].result
    if result is None:
        raise ValueError("no round was run")
    count = f"{len(result.index):,} images, worst case {100 * result.worst_case.value:.2f} %"
    lines = [
        "# An evaluation in several processes",
        "",
        f"`lrat evaluate {run} {' '.join(options)}`, with and without `--devices`; {count}.",
        f"{processor()}, {processors()} cores, "
        f"PyTorch {torch.__version__}. Wall seconds of the whole command, best of "
        f"{len(contestants[0].seconds)} in turns.",
        "",
        "| what | seconds | all rounds | with nothing to do | times as fast |",
        "| --- | --- | --- | --- | --- |",
    ]
    for each in contestants:
        rounds = ", ".join(f"{seconds:.1f}" for seconds in each.seconds)
        best = min(each.seconds)
        idle = min(each.starting)
        lines.append(f"| {each.name} | {best:.1f} | {rounds} | {idle:.1f} | {alone / best:.2f} |")
    same = same_verdicts([each.result for each in contestants])
    lines += ["", f"Verdicts are {'the same' if same else 'NOT the same'}."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", type=Path)
    parser.add_argument("--suite", default="tier")
    parser.add_argument("--limit", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-root")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    options = ["--suite", chosen.suite, "--limit", str(chosen.limit)]
    options += ["--batch-size", str(chosen.batch_size), "--device", "cpu", "--no-masking"]
    options += ["--data-root", chosen.data_root] if chosen.data_root else []
    contestants = [Contestant(processes=1), Contestant(processes=chosen.processes)]
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "run"
        shutil.copytree(chosen.run, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
        for _ in range(chosen.rounds):
            for each in contestants:
                each.run(copy, options)
    text = written(contestants, chosen.run.name, options)
    print(text)
    if chosen.out is not None:
        write_text(chosen.out, f"{text}\n")


if __name__ == "__main__":
    main()
