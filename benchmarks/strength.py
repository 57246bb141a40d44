"""Are attacks through the accelerated view as strong? Accuracy and margin against the plain model.

    python benchmarks/strength.py RUN [RUN ...] [--images 1000] [--seeds 5] [--out FILE.md]

For each run folder (its data where its config.yaml says): every attack is made once through the
plain float32 model and once through each way to compute, from the same noise, and judged by the
plain model in float32. Printed: accuracy after the attack (an image that is wrong when clean is
wrong), the mean probability margin over the images that are right when clean, and the differences,
as means over seeds. Margins fall with strength: a view is weaker where its difference is positive.
"""

import argparse
import platform
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from lrat.acceleration import Choices, FastView
from lrat.attacks import APGD, CW, PGD, SAA, Attack
from lrat.config import build
from lrat.data import stratified_subset
from lrat.losses import probability_margin, targeted_dlr
from lrat.randomness import Keyed, keys
from lrat.runs.folder import read_config
from lrat.runs.weights import fill, load_weights
from lrat.threat import Ball, as_ball

WAYS = {
    "float32, folded": Choices(),
    "bfloat16, channels_last, folded": Choices(channels_last=True, precision="bfloat16"),
}
CHUNK = 250


def attacks(ball: Ball, steps: int) -> dict[str, Attack]:
    """PGD-20, CW-20, SAA and targeted Auto-PGD with ``steps`` steps towards 9 classes."""
    step_size = ball.epsilon / 4
    return {
        "pgd-20": PGD(threat=ball, steps=20, step_size=step_size),
        "cw-20": CW(threat=ball, steps=20, step_size=step_size),
        "saa": SAA(threat=ball),
        f"apgd-t ({steps} steps)": APGD(threat=ball, loss=targeted_dlr, targets=9, steps=steps),
    }


def outcome(
    attack: Attack, seen: nn.Module, model: nn.Module, images: Tensor, labels: Tensor, seed: int
) -> Tensor:
    """[B]: the plain model's probability margins after the attack on ``seen``."""
    noise = Keyed(keys(seed, torch.arange(len(labels))))
    margins = []
    for rows in torch.arange(len(labels)).split(CHUNK):
        variant = attack(seen, images[rows], labels[rows], noise=noise.select(rows))
        with torch.no_grad():
            margins.append(probability_margin(model(variant.images), labels[rows]))
    return torch.cat(margins)


def rows_of(run: Path, count: int, seeds: int, steps: int) -> Iterable[list[str]]:
    """The table's rows for one run."""
    config = read_config(run)
    test = stratified_subset(build.data(config.data, config.seed).test, count, seed=0)
    model = build.model(config, test.shape, test.classes).eval()
    fill(model, load_weights(run, config, "selected"), str(run))
    batch = test.batch(torch.arange(len(test)))
    with torch.no_grad():
        right = torch.cat([model(part) for part in batch.images.split(CHUNK)]).argmax(1)
    kept = right == batch.labels
    images, labels, total = batch.images[kept], batch.labels[kept], len(test)
    views = {name: FastView(model, choices) for name, choices in WAYS.items()}
    for name, attack in attacks(as_ball(config.threat), steps).items():
        found = {
            way: torch.stack(
                [outcome(attack, seen, model, images, labels, seed) for seed in range(seeds)]
            )
            for way, seen in {"plain": model, **views}.items()
        }
        accuracy = {
            way: 100 * float((each > 0).sum()) / seeds / total for way, each in found.items()
        }
        margin = {way: float(each.mean()) for way, each in found.items()}
        for way in views:
            yield [
                f"{config.model.name}, {config.data.name}, {config.method.name}",
                name,
                way,
                f"{accuracy['plain']:.2f}",
                f"{accuracy[way] - accuracy['plain']:+.2f}",
                f"{margin['plain']:.4f}",
                f"{margin[way] - margin['plain']:+.5f}",
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--apgd-steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    head = ["model", "attack", "through", "accuracy %", "difference", "margin", "difference"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    print(*lines, sep="\n", flush=True)
    for run in options.runs:
        for row in rows_of(run, options.images, options.seeds, options.apgd_steps):
            lines.append(f"| {' | '.join(row)} |")
            print(lines[-1], flush=True)
    about = (
        f"{options.images} images, mean of {options.seeds} attack seeds, torch "
        f"{torch.__version__}, {options.threads} thread(s), {platform.machine()}"
    )
    print(about)
    if options.out is not None:
        options.out.write_text("\n".join([*lines, "", about, ""]))


if __name__ == "__main__":
    main()
