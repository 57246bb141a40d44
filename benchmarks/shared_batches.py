"""PGD-10 and CW-10 of one objective as one batch of twice the rows, and one after the other.

    python benchmarks/shared_batches.py [--quick] [--threads N] [--rounds N] [--out FILE]

Both ways do the same passes and give the same variants; they run in turns and the best round
counts, in processor time, which other programs on the machine disturb less than the clock. Prints a
Markdown table; with ``--out`` also writes it. ``rows_that_pay`` was chosen by it.
"""

import argparse
import shlex
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from lrat.acceleration import accelerate
from lrat.attacks.batched import rows_that_pay
from lrat.files.write import write_text
from lrat.methods import LocalSettings, Simulated
from lrat.models import ResNet18, SmallCNN
from lrat.objectives import Reweighted, StepContext
from lrat.randomness import Keyed, keys
from lrat.threat import Linf
from lrat.types import Batch
from measuring import Entry, Measured, count, environment, features, processor, say
from ours import best_choices
from subjects import EPSILON, Subject, subject

COLUMNS = (
    "network",
    "batch",
    "rows together",
    "one after the other",
    "together",
    "times as fast",
    "forwards + gradients per image, apart",
    "together",
    "median / best round",
    "shared by default",
)


def cases(*, quick: bool) -> list[Subject]:
    """Each network at its batch sizes."""
    torch.manual_seed(0)
    if quick:
        return [subject("small-cnn, 28x28", SmallCNN(size=28, width=2), (1, 28, 28), 3, 2)]
    small = [
        subject(f"small-cnn, {size}x{size}", SmallCNN(size=size), (1, size, size), batch, 6)
        for size, batches in ((8, (128, 256, 512, 1024)), (28, (32, 64, 128, 256, 512)))
        for batch in batches
    ]
    large = [
        subject(f"resnet-18, width {width}", ResNet18(width=width), (3, 32, 32), batch, 5)
        for width, batches in ((16, (16, 32, 64, 128)), (64, (8, 16)))
        for batch in batches
    ]
    return small + large


def objective(steps: int) -> Reweighted:
    simulated = Simulated(threat=Linf(epsilon=EPSILON), steps=steps)
    local = LocalSettings()
    return local.objective(local.terms(simulated, ["cw", "pgd"]))


def entries(case: Subject, steps: int) -> list[Entry]:
    """Apart and together, through the view that pays here."""
    view = accelerate(case.model, case.images, choices=best_choices(case))
    batch = Batch(images=case.images, labels=case.labels, index=torch.arange(len(case.labels)))
    step = StepContext(epoch=0, progress=0.0, noise=Keyed(keys(0, batch.index)))
    ways = {"apart": 0, "together": 2 * len(batch)}
    return [
        Entry(
            name=f"{name} | {view.choices}",
            work=partial(replace(objective(steps), share_rows=rows).attack, view, batch, step),
            watched=(view,),
            images=len(batch),
        )
        for name, rows in ways.items()
    ]


def timed(contestants: list[Entry], rounds: int) -> list[Measured]:
    """Processor seconds of each in turns, after a call that counts passes."""
    measured = [count(entry) for entry in contestants]
    for number in range(rounds):
        for found in measured if number % 2 == 0 else reversed(measured):
            started = time.process_time()
            found.entry.work()
            found.seconds.append(time.process_time() - started)
    return measured


def row(case: Subject, apart: Measured, together: Measured) -> str:
    cells = [
        f"{case.name}, {apart.entry.name.partition(' | ')[2]}",
        str(len(case.images)),
        str(2 * len(case.images)),
        f"{1000 * apart.best:.1f} ms",
        f"{1000 * together.best:.1f} ms",
        f"{apart.best / together.best:.2f}",
        *(f"{way.forwards:g} + {way.backwards:g}" for way in (apart, together)),
        f"{apart.spread:.2f}, {together.spread:.2f}",
        "yes" if 2 * len(case.images) <= rows_that_pay(case.images) else "no",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny settings, to see that it runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5, help="the fewest; at least 5 for a claim")
    parser.add_argument("--out", type=Path, help="also write the table there")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    steps, rounds = (2, 1) if chosen.quick else (10, chosen.rounds)
    lines = [
        "# Attacks in shared batches",
        "",
        f"`python benchmarks/{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`",
        "",
        f"{processor()} ({', '.join(features())}), {chosen.threads} threads. "
        f"{environment()}. PGD-{steps} and CW-{steps} through the view, best of at least "
        f"{rounds} rounds in turns, processor time.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    for case in cases(quick=chosen.quick):
        say(f"{case.name}, batch {len(case.images)} ...")
        apart, together = timed(entries(case, steps), max(rounds, case.rounds))
        lines.append(row(case, apart, together))
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if chosen.out is not None:
        write_text(chosen.out, text)


if __name__ == "__main__":
    main()
