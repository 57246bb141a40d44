"""Where the time of training steps, or of an evaluation's attacks, goes.

    python benchmarks/phases.py sat [--set data.name=cifar10 ...] [--steps 20]
    python benchmarks/phases.py runs/mine [--suite tier] [--limit 64]

The first trains a fresh network for some steps, of which the first is a warm-up; the second attacks
the model of a run folder. Nothing is kept. Everything is measured by hooks from outside; on CUDA
each change of phase waits for the device. (The name `profile` is taken by Python's own module.)
"""

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lrat import hardware
from lrat.attacks import Attack, Variant
from lrat.config import build
from lrat.config.settings import load_config, parse_assignments
from lrat.data import in_order, stratified_subset
from lrat.evaluation import evaluate_suite
from lrat.experiments.train import train_network
from lrat.modes import evaluating
from lrat.objectives import Objective, ObjectiveOutput, StepContext
from lrat.outputs import forward_logits, logits_of
from lrat.runs.sources import ModelSource
from lrat.runs.suites import suite
from lrat.text import to_markdown
from lrat.training import EpochRecord, StepProgress, Watch
from lrat.types import Batch

ATTACK, UPDATE, REST = "attack", "update", "data and rest"
FORWARD, BACKWARD, OTHER = "forward", "backward", "other"
_PROBE_IMAGES = 8
_MATRIX = 2048


class Clock:
    """Seconds by (phase, part): exactly one runs at any time, so they add up to the whole.

    ``rows``: images forward and gradients back, by phase. Forwards of the watched modules, and the
    way back from their logits to images that need a gradient, are parts of the phase around them.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.rows: Counter[tuple[str, str]] = Counter()
        self.now = (REST, OTHER)
        self._device = device
        self._since = self._time()

    def switch(self, phase: str, part: str = OTHER) -> tuple[str, str]:
        """Begin a phase or part; returns the one that ends."""
        time_now, ended = self._time(), self.now
        self.seconds[ended] += time_now - self._since
        self.now, self._since = (phase, part), time_now
        return ended

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """``phase`` inside, the former one again afterwards."""
        former = self.switch(phase)
        try:
            yield
        finally:
            self.switch(*former)

    def reset(self) -> None:
        """Forget what was measured so far: it was a warm-up."""
        self.switch(REST)
        self.seconds.clear()
        self.rows.clear()

    @contextmanager
    def watching(self, *modules: nn.Module) -> Iterator[None]:
        """Forwards and backwards through ``modules`` are parts of their own inside."""
        handles = [
            handle
            for module in {id(module): module for module in modules}.values()
            for handle in (
                module.register_forward_pre_hook(self._begin),
                module.register_forward_hook(self._end, prepend=True),
            )
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.switch(self.now[0], FORWARD)

    def _end(self, module: nn.Module, arguments: tuple[Any, ...], output: object) -> None:
        logits, images = logits_of(output), arguments[0]
        phase, _ = self.switch(self.now[0])
        self.rows[phase, FORWARD] += len(logits)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self._leave(gradient, images))
            if images.requires_grad:
                images.register_hook(lambda gradient: self.switch(self.now[0]) and None)

    def _leave(self, gradient: Tensor, images: Tensor) -> None:
        self.rows[self.now[0], BACKWARD] += len(gradient)
        if images.requires_grad:
            self.switch(self.now[0], BACKWARD)

    def _time(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@dataclass(frozen=True, kw_only=True)
class ClockedObjective:
    """An objective that tells the clock which of its two phases runs."""

    objective: Objective
    clock: Clock

    def attack(self, view: nn.Module, batch: Batch, step: StepContext) -> dict[str, Variant]:
        with self.clock.during(ATTACK):
            return self.objective.attack(view, batch, step)

    def loss(
        self, model: nn.Module, batch: Batch, variants: Mapping[str, Variant], step: StepContext
    ) -> ObjectiveOutput:
        self.clock.switch(UPDATE)  # until the step ends: backward and the optimiser belong to it
        return self.objective.loss(model, batch, variants, step)

    def on_step(self, progress: StepProgress) -> None:
        if progress.step == 1:
            self.clock.reset()
        self.clock.switch(REST)

    def on_epoch(self, record: EpochRecord) -> None:
        """The one epoch is all that is measured."""


@dataclass(frozen=True, kw_only=True)
class ClockedAttack:
    """An attack whose name is a phase of the clock."""

    name: str
    attack: Attack
    clock: Clock

    @property
    def provides(self) -> frozenset[str]:
        return self.attack.provides

    @property
    def needs_clean(self) -> bool:
        return self.attack.needs_clean

    def __call__(self, *arguments: Any, **named: Any) -> Variant:
        with self.clock.during(self.name):
            return self.attack(*arguments, **named)


def training(method: str, assignments: Sequence[str], steps: int) -> str:
    """The table of ``steps`` steps of ``method``, the warm-up among them left out."""
    config = load_config({"method": {"name": method}}, parse_assignments(assignments))
    device, size = hardware.device(config.device), config.training.batch_size
    with build.threads(config), ExitStack() as watching:
        images = build.data(config.data, config.seed).training()
        part = stratified_subset(images, min(steps * size, len(images)), seed=0)
        network = build.model(config, images.shape, images.classes)
        clock = Clock(device)
        objective = ClockedObjective(objective=build.objective(config), clock=clock)

        def prepare(network: nn.Module, notes: tuple[str, ...]) -> tuple[nn.Module, Watch]:
            view = build.view(config.acceleration, network, images)
            watching.enter_context(clock.watching(network, view))
            return view, Watch(progress=objective)

        train_network(
            network,
            part,
            objective,
            replace(build.optimisation(config), epochs=1),
            batch_size=size,
            device=device,
            prepare=prepare,
            augmentation=build.augmentation(config.data),
        )
        clock.switch(REST)
        watching.close()
        count = len(part) - size
        return table(f"{method} on {config.data.name}, {count} images", clock, network, part, count)


def evaluation(run: Path, name: str, limit: int) -> str:
    """The table of an evaluation of ``limit`` images; each attack is a phase."""
    subject = ModelSource(run=run).load()
    with subject.threads():
        device = hardware.device(subject.config.device)
        network = hardware.move(subject.network, device)
        images = stratified_subset(subject.images, limit, seed=0)
        chosen = suite(name, subject.threat, images.classes)
        view, clock = build.view("auto", network, images), Clock(device)
        members = tuple(
            replace(step, attack=ClockedAttack(name=step.name, attack=step.attack, clock=clock))
            for step in chosen.steps
        )
        batches = in_order(images, batch_size=256, device=device)
        with clock.watching(network, view):
            clock.reset()
            evaluate_suite(
                network, batches, replace(chosen, members=members), view=view, device=device
            )
            clock.switch(REST)
        return table(f"{name} on {run}, {len(images)} images", clock, network, images, len(images))


def table(title: str, clock: Clock, network: nn.Module, data: Any, images: int) -> str:
    """Seconds by phase, passes per image, and the FLOP that they take beside this machine's."""
    total = sum(clock.seconds.values())
    device = next(network.parameters()).device
    probe = data.batch(torch.arange(min(_PROBE_IMAGES, len(data)))).images.to(device)
    best = matrix_peak(device)
    weights = [value for value in network.parameters() if value.requires_grad]
    parts, passes = (FORWARD, BACKWARD, OTHER), (FORWARD, BACKWARD)
    lines = [["phase", "share", *parts, "s/1,000 images", "passes/image", "of peak"]]
    for phase in dict.fromkeys(phase for phase, _ in clock.seconds):
        seconds = [clock.seconds[phase, part] for part in parts]
        taken = pass_flop(network, probe, weights if phase == UPDATE else None)
        flop = sum(clock.rows[phase, part] * taken[part] for part in passes)
        lines.append(
            [
                phase,
                *(f"{100 * each / total:.1f} %" for each in (sum(seconds), *seconds)),
                f"{1000 * sum(seconds) / images:.3f}",
                " + ".join(f"{clock.rows[phase, part] / images:.2f}" for part in passes),
                f"{100 * flop / sum(seconds) / best:.0f} %",
            ]
        )
    peak = f"Peak: {best / 1e9:.0f} GFLOP/s, a product of float32 matrices, {device.type}."
    return "\n".join([f"{title}, {total:.2f} s", "", to_markdown(lines), peak])


def pass_flop(
    model: nn.Module, images: Tensor, weights: Sequence[Tensor] | None
) -> dict[str, float]:
    """FLOP per image of a forward and of the gradient for ``weights``, or for the images."""
    leaf = images.detach().requires_grad_(weights is None)
    with evaluating(model), FlopCounterMode(display=False) as counter:
        logits = forward_logits(model, leaf)
        forward = counter.get_total_flops()
        torch.autograd.grad(logits.sum(), [leaf] if weights is None else weights, allow_unused=True)
    both = counter.get_total_flops()
    return {FORWARD: forward / len(images), BACKWARD: (both - forward) / len(images)}


def matrix_peak(device: torch.device) -> float:
    """FLOP/s of a large product of float32 matrices, the best of five."""
    matrix = torch.rand((_MATRIX, _MATRIX), generator=torch.Generator(device), device=device)
    clock = Clock(device)
    for number in range(6):
        clock.switch(str(number))
        torch.mm(matrix, matrix)
    clock.switch(REST)
    return 2 * _MATRIX**3 / min(clock.seconds[str(number), OTHER] for number in range(1, 6))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", help="a method, or a run folder")
    parser.add_argument("--set", action="append", default=[], help="a setting, as training.lr=0.1")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--limit", type=int, default=64)
    options = parser.parse_args()
    if Path(options.what).is_dir():
        print(evaluation(Path(options.what), options.suite, options.limit))
    else:
        print(training(options.what, options.set, options.steps))


if __name__ == "__main__":
    main()
