"""What it costs that every forward of a user's model goes through ``lrat.outputs``.

    python benchmarks/door.py [--rounds N] [--batch N]

One step of PGD on a resnet-18 of width 16 with one thread, as it is and with the model called
directly: without a copy of the images, the search for the logits, the replacement of -inf and the
translation of errors. The same of a model that returns stored logits, where the difference is the
door alone; and the frame around an attack (modes, random states, autocast, labels), which comes
once per attack. All run in turns, seconds are those of the processor (not those spent waiting for
it); the best round of each, and the median of the ratios of the rounds, which a busy machine
disturbs less. Prints a Markdown table.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor, nn

from lrat.attacks.base import framed
from lrat.attacks.gradient import gradients_of, image_gradient
from lrat.losses import cross_entropy
from lrat.models import ResNet18


def direct(model: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = model(images)
    return logits


class Stored(nn.Module):
    """Returns logits that depend on one pixel, so that there is a gradient and nothing else."""

    def forward(self, images: Tensor) -> Tensor:
        pixel: Tensor = images[:, 0, 0, :10]
        return pixel


def seconds(work: Callable[[], object], repeats: int) -> float:
    begin = time.thread_time()
    for _ in range(repeats):
        work()
    return (time.thread_time() - begin) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--batch", type=int, default=64)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, stored = ResNet18(width=16).eval(), Stored().eval()
    images = torch.rand(chosen.batch, 3, 32, 32)
    labels = torch.zeros(chosen.batch, dtype=torch.long)
    loss = cross_entropy.prepare(labels)

    def step(model: nn.Module) -> None:
        with gradients_of(model):
            image_gradient(model, loss, images)

    def direct_step(model: nn.Module) -> None:
        with (
            patch("lrat.attacks.gradient.raw_logits", direct),
            patch("lrat.attacks.gradient.in_float32", Tensor.float),
        ):
            step(model)

    def frame() -> None:
        with framed(network, images, labels, None, needs_clean=False):
            pass

    works: dict[str, tuple[Callable[[], object], int]] = {
        "step": (partial(step, network), 1),
        "direct": (partial(direct_step, network), 1),
        "door": (partial(step, stored), 20),
        "without": (partial(direct_step, stored), 20),
        "patching": (direct_step_of_nothing, 20),
        "frame": (frame, 5),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(chosen.rounds):
        # In both directions: who comes second finds the network in the processor's cache.
        for name in list(works)[:: -1 if number % 2 else 1]:
            work, repeats = works[name]
            times[name].append(seconds(work, repeats))
    best = {name: 1e3 * min(values) for name, values in times.items()}
    busy = statistics.median(times["direct"]) / min(times["direct"])
    pairs = zip(times["step"], times["direct"], strict=True)
    ratio = statistics.median(step / direct for step, direct in pairs)
    alone = best["door"] - best["without"] + best["patching"]
    print(f"torch {torch.__version__}, batch {chosen.batch}, best of {chosen.rounds} in turns.\n")
    print("| step | called directly | ratio | median ratio | door | of a step | frame | busy |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {best['step']:.2f} ms | {best['direct']:.2f} ms "
        f"| {best['step'] / best['direct']:.3f} | {ratio:.3f} "
        f"| {alone:.3f} ms | {100 * alone / best['step']:.2f} % | {best['frame']:.2f} ms "
        f"| {busy:.2f} |"
    )


def direct_step_of_nothing() -> None:
    """What switching the door off costs by itself."""
    with (
        patch("lrat.attacks.gradient.raw_logits", direct),
        patch("lrat.attacks.gradient.in_float32", Tensor.float),
    ):
        pass


if __name__ == "__main__":
    main()
