"""Where the time of a training run or an evaluation goes; nothing is written into run folders.

What a run builds is built here too, and takes a bounded number of steps under clocks.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import nn

from lrat import hardware
from lrat.config import build
from lrat.config.settings import RunConfig
from lrat.data import ImageData, InMemory, in_order, stratified_subset
from lrat.evaluation import Suite, evaluate_suite
from lrat.experiments.clocks import PhaseClock, image_pass_flop, weight_pass_flop
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.experiments.meter import (
    DATA,
    REST,
    UPDATE,
    ClockedAttack,
    ClockedObjective,
    Meter,
    Profile,
)
from lrat.hardware import move
from lrat.modes import evaluating, training_modes
from lrat.outputs import forward_logits
from lrat.runs.sources import ModelSource
from lrat.runs.suites import suite
from lrat.threat import as_ball
from lrat.training.metrics import EpochSums
from lrat.training.step import Stepper
from lrat.types import Batch, Images

_PROBE_IMAGES = 8
_SMALLEST_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to measure: ``steps`` steps or ``seconds`` seconds, whichever ends first, but at
    least ``least`` steps. The first step is a warm-up."""

    steps: int = 20
    seconds: float = 20.0
    least: int = 3

    def numbers(self) -> Iterator[int]:
        """The numbers of the steps to take, from 0."""
        started = time.perf_counter()
        for number in range(max(self.steps, self.least)):
            if number >= self.least and time.perf_counter() - started > self.seconds:
                return
            yield number


def profile_training(config: RunConfig, *, budget: Budget | None = None) -> Profile:
    """The first steps of the run that ``config`` says, on a fresh network.

    Raises what ``train_run`` raises for settings, data and models.
    """
    with build.threads(config):
        return _training(config, budget or Budget())


def _training(config: RunConfig, budget: Budget) -> Profile:
    place = hardware.device(config.device)
    images = build.data(config.data, config.seed).training()
    network = build.model(config, images.shape, images.classes)
    size = config.training.batch_size
    classes = build.check_fit(network, images)
    build.check_training(network, images, size, classes=classes)
    source = InMemory(
        images,
        batch_size=size,
        seed=config.seed,
        augmentation=build.augmentation(config.data),
        device=place,
    )
    optimisation = build.optimisation(config)
    optimizer = optimisation.optimizer(move(network, place))
    view = build.view(config.acceleration, network, images)
    probe = _probe(images, place)
    meter = Meter(network, view, probe)
    clock = meter.clock
    objective = ClockedObjective(objective=build.objective(config), clock=clock)
    stepper = Stepper(network, view, objective, optimizer, optimisation, {})
    sums, batches, seen, steps = EpochSums(place), _again(lambda: source), 0, 0
    with training_modes(network):
        with stepper, meter:
            for number in budget.numbers():
                with clock.during(DATA):
                    group = [batch.to(place) for batch in islice(batches, optimisation.accumulate)]
                outcome = stepper(group, epoch=0, step=number)
                clock.switch(REST)
                sums.add(outcome)
                seen, steps = seen + outcome.images, steps + 1
                if number == 0:
                    meter.reset()
                    seen = steps = 0
            clock.switch(REST)
        passing = meter.passing("update", UPDATE, weight_pass_flop(network, probe))
    update = replace(passing, seconds=passing.seconds + clock.seconds[UPDATE])
    what = f"{config.method.name} on {config.data.name}, {config.model.name}"
    return meter.profile(_title(what, seen, steps, size, place), seen, [update])


def profile_evaluation(
    source: ModelSource, request: EvaluationRequest, *, budget: Budget | None = None
) -> Profile:
    """Some batches of the evaluation that ``evaluate_subject`` would do.

    Batches are smaller than asked for where one would take too much of the budget; the title says
    how large they are. Raises what that function raises for settings, data and models.
    """
    request.check()
    place = hardware.device(request.device)
    subject = source.load(request.threat)
    with subject.threads():
        ball, classes = as_ball(subject.threat), build.check_fit(subject.network, subject.test)
        chosen = suite(request.suite, ball, classes, loss=request.loss, transfer=request.transfer)
        images = stratified_subset(subject.test, request.limit, seed=0)
        name = f"{chosen.name} on {subject.name}"
        network = move(subject.network, place)
        return _evaluation(name, network, images, chosen, request, budget or Budget())


def _evaluation(
    name: str,
    network: nn.Module,
    images: ImageData,
    chosen: Suite,
    request: EvaluationRequest,
    budget: Budget,
) -> Profile:
    place = hardware.device(request.device)
    view = build.view(request.acceleration, network, images)
    probe = _probe(images, place)
    meter = Meter(network, view, probe)
    clock = meter.clock
    clocked = replace(
        chosen,
        members=tuple(
            replace(
                member, attack=ClockedAttack(name=member.name, attack=member.attack, meter=meter)
            )
            for member in chosen.steps
        ),
    )

    def attack_next(batches: Iterator[Batch]) -> int:
        with clock.during(DATA):
            batch = next(batches)
        # Without the look at the model, which an evaluation takes once, whatever its size.
        evaluate_suite(
            network,
            [batch],
            clocked,
            seed=request.seed,
            view=view,
            device=place,
            known_notes=(),
        )
        clock.switch(REST)
        return len(batch)

    def batches_of(size: int) -> Iterator[Batch]:
        return _again(lambda: in_order(images, batch_size=size, device=place))

    with meter:
        sizes = _sizes(min(request.batch_size, len(images)))
        attack_next(batches_of(sizes[0]))
        passes = [_pass_seconds(view, images.batch(slice(0, size), place).images) for size in sizes]
        # Passes are what attacks spend, so a batch of another size costs as a pass of it does.
        costs = [clock.total * seconds / passes[0] for seconds in passes]
        fit = [size for size, cost in zip(sizes, costs, strict=True) if cost <= budget.seconds / 2]
        size = max([sizes[0], *fit])
        left = max(0.0, budget.seconds - clock.total)
        meter.reset()
        seen, steps, batches = 0, 0, batches_of(size)
        # The warm-up was a step.
        rest = replace(budget, steps=budget.steps - 1, seconds=left, least=budget.least - 1)
        for _ in rest.numbers():
            seen += attack_next(batches)
            steps += 1
    with evaluating(network):
        confirmation = meter.passing("confirmation", REST, image_pass_flop(network, probe))
    return meter.profile(_title(name, seen, steps, size, place), seen, [confirmation])


def _sizes(largest: int) -> list[int]:
    """8, 16, 32, ... up to ``largest``, which is one of them in any case."""
    sizes = [min(_SMALLEST_BATCH, largest)]
    while 2 * sizes[-1] < largest:
        sizes.append(2 * sizes[-1])
    return sorted({*sizes, largest})


def _pass_seconds(view: nn.Module, images: Images) -> float:
    """The second pass of an attack over these images."""
    clock = PhaseClock(images.device, "first")
    with evaluating(view):
        for phase in ("second", "over"):
            leaf = images.detach().requires_grad_()
            torch.autograd.grad(forward_logits(view, leaf).sum(), leaf)
            clock.switch(phase)
    return clock.seconds["second"]


def _again(source: Callable[[], Iterable[Batch]]) -> Iterator[Batch]:
    """One epoch after the other, without end."""
    while True:
        yield from source()


def _probe(images: ImageData, place: torch.device) -> Images:
    return images.batch(torch.arange(min(_PROBE_IMAGES, len(images)))).images.to(place)


def _title(what: str, images: int, steps: int, size: int, place: torch.device) -> str:
    if place.type == "cuda":
        where = torch.cuda.get_device_name(place)
    else:
        threads = torch.get_num_threads()
        where = f"{place.type} with {threads} thread{'s' if threads > 1 else ''}"
    return f"{what}: {images} images in {steps} steps of at most {size}, on {where}"
