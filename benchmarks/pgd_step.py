"""PGD-20 of lrat against the shortest loop one would write by hand: time, passes, operations.

    python benchmarks/pgd_step.py [--quick] [--threads N] [--rounds N]

The two run in turns and the best round counts, since timings on shared machines drift. The bare
loop draws its start from torch's generator, clips to ball and box, and neither restores modes nor
counts survived steps. Prints a Markdown table.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the community's name
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lrat.attacks import PGD
from lrat.models import ResNet18, SmallCNN
from lrat.threat import Linf
from measuring import processor

EPSILON, STEP_SIZE = 8 / 255, 2 / 255
Work = Callable[[nn.Module, Tensor, Tensor, int], object]


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    model: nn.Module
    shape: tuple[int, ...]


class Counts(TorchDispatchMode):
    """Tensor operations, and convolutions each way."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.forwards = self.backwards = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.operations += 1
        self.forwards += name == "convolution"
        self.backwards += name == "convolution_backward"
        return func(*args, **(kwargs or {}))


def ours(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> Tensor:
    attack = PGD(threat=Linf(epsilon=EPSILON), steps=steps, step_size=STEP_SIZE)
    return attack(model, images, labels, noise=0).images


def bare(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> Tensor:
    current = (images + EPSILON * (2 * torch.rand_like(images) - 1)).clamp(0, 1)
    for _ in range(steps):
        current.requires_grad_()
        loss = F.cross_entropy(model(current), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, current)
        with torch.no_grad():
            current = current + STEP_SIZE * gradient.sign()
            current = current.clamp(images - EPSILON, images + EPSILON).clamp(0, 1)
    return current


def network(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> None:
    """What any PGD must do: a forward and a gradient of the images per step."""
    for _ in range(steps):
        current = images.detach().requires_grad_()
        torch.autograd.grad(model(current).sum(), current)


def seconds(work: Work, case: Case, batch: tuple[Tensor, Tensor], steps: int) -> float:
    begin = time.perf_counter()
    work(case.model, *batch, steps)
    return time.perf_counter() - begin


def counted(work: Work, case: Case, batch: tuple[Tensor, Tensor], steps: int) -> Counts:
    with Counts() as counts:
        work(case.model, *batch, steps)
    return counts


def row(case: Case, *, count: int, steps: int, rounds: int) -> str:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, *case.shape, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    batch = images, labels
    for work in (ours, bare):
        work(case.model, *batch, 1)
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(rounds):
        turn = [("ours", ours), ("bare", bare)]
        for name, work in turn if number % 2 == 0 else reversed(turn):
            times[name].append(seconds(work, case, batch, steps))
    best = {name: min(found) for name, found in times.items()}
    found, plain, least = (counted(work, case, batch, steps) for work in (ours, bare, network))
    convolutions = sum(isinstance(module, nn.Conv2d) for module in case.model.modules())
    passes = (found.forwards / convolutions / steps, found.backwards / convolutions / steps)
    extra = [(each.operations - least.operations) / steps for each in (found, plain)]
    spread = max(times["bare"]) / best["bare"]
    return (
        f"| {case.name} | {best['ours']:.3f} s | {best['bare']:.3f} s "
        f"| {best['ours'] / best['bare']:.3f} | {spread:.2f} | {passes[0]:g} + {passes[1]:g} "
        f"| {extra[0]:.1f} | {extra[1]:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny settings, to see that it runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7, help="at least 5 for a claim")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    count, steps, rounds, width = (2, 2, 2, 2) if chosen.quick else (64, 20, chosen.rounds, 16)
    cases = [
        Case(name=f"resnet-18, width {width}", model=ResNet18(width=width), shape=(3, 32, 32)),
        Case(name="small-cnn, 8x8", model=SmallCNN(width=width), shape=(1, 8, 8)),
        Case(name="small-cnn, 28x28", model=SmallCNN(width=width, size=28), shape=(1, 28, 28)),
    ]
    print(f"PGD-{steps}, batch {count}, best of {rounds} rounds in turns.")
    print(f"torch {torch.__version__}, {chosen.threads} threads, {processor()}.\n")
    print("| model | lrat | bare loop | ratio | slowest / fastest bare round ", end="")
    print("| passes per step, forward + backward ", end="")
    print("| operations per step besides the network | of the bare loop |")
    print("|---|---|---|---|---|---|---|---|")
    for case in cases:
        case.model.eval()
        print(row(case, count=count, steps=steps, rounds=rounds), flush=True)


if __name__ == "__main__":
    main()
