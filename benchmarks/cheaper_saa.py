"""What an SAA loses by spending fewer passes: strength against passes on trained models.

    python benchmarks/cheaper_saa.py RUN [RUN ...] [--limit N] [--seeds N] [--only TEXT ...]

``RUN``: folders that ``lrat train`` wrote. Every setting attacks the same test images of each run
with the same seeds through the accelerated view; accuracy and probability margin are those of the
float32 model on what came back. Prints one Markdown table: per model the accuracy after the attack
and the mean probability margin, each with its difference to the exact SAA (positive: weaker), mean
over the seeds with the standard deviation of the paired difference. Passes are counted by the
attack and include the pass that picks the targets.
"""

import argparse
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lrat.acceleration import accelerate
from lrat.attacks import APGD, CW, SAA, GradientAttack
from lrat.config import build
from lrat.data import ImageData, stratified_subset
from lrat.losses import cw, dlr, probability_margin
from lrat.randomness import Keyed, keys
from lrat.runs.folder import read_config
from lrat.runs.weights import fill, load_weights
from lrat.threat import Ball, as_ball

EXACT = "exact: 3 targets, 20 steps"
BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained model and the images that it meets."""

    name: str
    model: nn.Module
    view: nn.Module
    data: ImageData
    threat: Ball


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Per seed: accuracy in per cent and mean probability margin after the attack; passes."""

    accuracy: list[float]
    margin: list[float]
    forwards: int
    backwards: int


def settings(threat: Ball) -> Mapping[str, GradientAttack]:
    """The exact SAA, its halvings, and other ways to spend about as many passes."""

    def saa(**chosen: object) -> APGD:
        return SAA(threat=threat, **chosen)  # type: ignore[arg-type]

    def untargeted(loss: object, steps: int, restarts: int = 1, **chosen: object) -> APGD:
        return APGD(
            threat=threat,
            steps=steps,
            loss=loss,  # type: ignore[arg-type]
            restarts=restarts,
            start="uniform",
            choice="best-loss",
            stacked=True,
            **chosen,  # type: ignore[arg-type]
        )

    halved = [{1: 1}, {2: 1}, {3: 1}, {4: 1}, {6: 1}, {10: 1}, {6: 2}]
    halved += [{2: 2, 6: 1}, {3: 2, 6: 1}, {4: 2, 10: 1}]
    found: dict[str, GradientAttack] = {EXACT: saa()}
    found |= {f"keep={keep}": saa(keep=keep) for keep in halved}
    found |= {
        "4 targets, keep={3: 1}": saa(targets=4, keep={3: 1}),
        "4 targets, keep={3: 2, 6: 1}": saa(targets=4, keep={3: 2, 6: 1}),
        "5 targets, keep={2: 2, 6: 1}": saa(targets=5, keep={2: 2, 6: 1}),
        "9 targets, keep={2: 3, 5: 1}": saa(targets=9, keep={2: 3, 5: 1}),
        "30 steps, keep={4: 1}": saa(steps=30, keep={4: 1}),
        "11 steps": saa(steps=11),
        "7 steps": saa(steps=7),
        "2 targets": saa(targets=2),
        "1 target": saa(targets=1),
        "untargeted DLR": untargeted(dlr, 20),
        "untargeted DLR, 3 starts, keep={6: 1}": untargeted(dlr, 20, 3, keep={6: 1}),
        "Auto-PGD on the logit margin, 34 steps": untargeted(cw, 34),
        "PGD on the logit margin, 34 steps of eps/4": CW(
            threat=threat, steps=34, step_size=threat.epsilon / 4
        ),
    }
    return found


def subject(run: Path, limit: int | None) -> Subject:
    config = read_config(run)
    splits = build.data(config.data, config.seed)
    model = build.model(config, splits.test.shape, splits.test.classes)
    fill(model, load_weights(run, config, "selected"), str(run))
    data = stratified_subset(splits.test, limit, seed=0)
    return Subject(
        name=f"{config.data.name}, {config.model.name}, {config.method.name}",
        model=model.eval(),
        view=accelerate(model, data.batch(slice(0, BATCH)).images),
        data=data,
        threat=as_ball(config.threat),
    )


def reached(subject: Subject, attack: GradientAttack, seeds: int) -> Reached:
    accuracies, margins = [], []
    forwards = backwards = 0
    for seed in range(seeds):
        found: list[Tensor] = []
        for first in range(0, len(subject.data), BATCH):
            batch = subject.data.batch(slice(first, first + BATCH))
            noise = Keyed(keys(seed, batch.index))
            variant = attack(subject.view, batch.images, batch.labels, noise=noise)
            with torch.no_grad():
                found.append(probability_margin(subject.model(variant.images), batch.labels))
            trace = variant.trace
            if trace is None or trace.forwards is None or trace.backwards is None:
                raise TypeError(f"{attack!r} does not count its passes")
            forwards = int(trace.forwards.max()) + attack.needs_clean
            backwards = int(trace.backwards.max())
        margin = torch.cat(found)
        accuracies.append(100 * (margin > 0).float().mean().item())
        margins.append(margin.mean().item())
    return Reached(accuracy=accuracies, margin=margins, forwards=forwards, backwards=backwards)


def cell(values: list[float], exact: list[float], digits: int) -> str:
    """``31.20 (+0.13 ± 0.06)``: the mean, and its paired difference to the exact attack."""
    mean = f"{statistics.mean(values):.{digits}f}"
    if values is exact:
        return mean
    differences = [value - other for value, other in zip(values, exact, strict=True)]
    spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
    return f"{mean} ({statistics.mean(differences):+.{digits}f} ± {spread:.{digits}f})"


def row(name: str, found: list[Reached], exact: list[Reached]) -> str:
    spent = found[0]
    passes, most = (each.forwards + each.backwards for each in (spent, exact[0]))
    cells = [name, f"{spent.forwards} + {spent.backwards}", f"{passes / most:.2f}"]
    for own, best in zip(found, exact, strict=True):
        cells += [cell(own.accuracy, best.accuracy, 2), cell(own.margin, best.margin, 4)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--limit", type=int, help="test images per model; all by default")
    parser.add_argument("--seeds", type=int, default=3, help="at least 3 for a claim")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", default=[""], help="settings that contain a text")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    subjects = [subject(run, chosen.limit) for run in chosen.runs]
    for each in subjects:
        choices = getattr(each.view, "choices", "plain")
        print(f"{each.name}: {each.threat}, {len(each.data)} images, attacked in {choices}.")
    print(f"Seeds 0 to {chosen.seeds - 1}; torch {torch.__version__}.\n")
    columns = ["SAA setting", "forwards + backwards", "share of passes"]
    for each in subjects:
        columns += [f"{each.name}: accuracy %", "mean margin"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    exact = [reached(each, settings(each.threat)[EXACT], chosen.seeds) for each in subjects]
    print(row(EXACT, exact, exact), flush=True)
    for name in settings(subjects[0].threat):
        if name != EXACT and any(text in name for text in chosen.only):
            found = [reached(each, settings(each.threat)[name], chosen.seeds) for each in subjects]
            print(row(name, found, exact), flush=True)


if __name__ == "__main__":
    main()
