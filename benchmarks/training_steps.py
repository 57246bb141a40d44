"""One training step each way: ours, the floor under it, and as it is commonly written.

The floor is what no implementation with these passes can beat: the passes that the step was counted
to make, at the measured time of one bare pass of the same view, plus one bare update.
"""

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the community's name
from torch import Tensor, nn

from lrat.acceleration import Choices, View, accelerate
from lrat.methods import Simulated, gairat, lrat, sat
from lrat.objectives import Objective
from lrat.threat import Linf
from lrat.training import Optimisation
from lrat.training.step import Stepper
from lrat.types import Batch
from measuring import Entry, Measured
from rivals import TARGETS
from subjects import EPSILON, Subject

RATE, MOMENTUM, DECAY = 0.01, 0.9, 2e-4
LAMBDA = -1.0
AFTER_BOOTSTRAP = 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Steps of the attacks in a training step."""

    steps: int = 10
    saa_steps: int = 20

    @property
    def simulated(self) -> Simulated:
        return Simulated(
            threat=Linf(epsilon=EPSILON),
            steps=self.steps,
            saa_steps=self.saa_steps,
            saa_targets=TARGETS,
        )

    def objectives(self) -> dict[str, Objective]:
        simulated = self.simulated
        return {
            "SAT": sat(simulated),
            "GAIRAT": gairat(simulated).at(AFTER_BOOTSTRAP),
            "LRAT-SAA": lrat(simulated, ["saa"]),
        }


def trainee(subject: Subject) -> nn.Module:
    """A copy in train mode whose weights want gradients."""
    return copy.deepcopy(subject.model).train().requires_grad_(True)


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)


def our_steps(subject: Subject, plan: Plan, choices: Choices, stack: ExitStack) -> list[Entry]:
    """Each objective through the view and through the plain model."""
    ways = {"lrat, view": choices, "lrat, plain model": None}
    return [
        _our_step(f"{name} | {way}", subject, objective, chosen, stack)
        for name, objective in plan.objectives().items()
        for way, chosen in ways.items()
    ]


def _our_step(
    name: str, subject: Subject, objective: Objective, choices: Choices | None, stack: ExitStack
) -> Entry:
    model = trainee(subject)
    view = model
    if choices is not None:
        view = accelerate(model, subject.images, choices=choices)
    settings = Optimisation(epochs=100, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    stepper = Stepper(model, view, objective, optimizer(model), settings, {})
    stack.enter_context(stepper)
    batch = Batch(
        images=subject.images, labels=subject.labels, index=torch.arange(len(subject.labels))
    )
    return Entry(
        name=name,
        work=lambda: stepper([batch], epoch=99, step=0),
        watched=(model,) if view is model else (model, view),
        images=len(batch),
    )


def floor_parts(subject: Subject, plan: Plan, choices: Choices) -> list[Entry]:
    """A bare pass and a bare forward at each batch size of the attacks, and a bare update.

    Chained as in the step, so that both are timed for about as long.
    """
    view = accelerate(subject.model, subject.images, choices=choices)
    model = trainee(subject)
    parts = []
    sizes = {"one": (subject.images, plan.steps), "stacked": _stacked(subject, plan)}
    for name, (images, count) in sizes.items():
        for kind, work in (("pass", passes), ("forward", forwards)):
            parts.append(
                Entry(
                    name=f"{kind}, {name}",
                    work=_bound(work, view, images, count),
                    watched=(view,),
                    images=len(images),
                    repeats=count,
                )
            )
    update = _bound(bare_update, model, optimizer(model), subject.images, subject.labels)
    parts.append(Entry(name="update", work=update, watched=(model,), images=len(subject.images)))
    return parts


def _stacked(subject: Subject, plan: Plan) -> tuple[Tensor, int]:
    return torch.cat([subject.images] * TARGETS), plan.saa_steps


def _bound(work: Callable[..., object], *arguments: Any) -> Callable[[], object]:
    return lambda: work(*arguments)


def passes(view: View, images: Tensor, count: int) -> None:
    for _ in range(count):
        current = images.detach().requires_grad_()
        torch.autograd.grad(view(current).sum(), current)


@torch.no_grad()
def forwards(view: View, images: Tensor, count: int) -> None:
    for _ in range(count):
        view(images)


def bare_update(
    model: nn.Module, descent: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    descent.zero_grad(set_to_none=True)
    F.cross_entropy(model(images), labels).backward()
    descent.step()


def floor(step: Measured, parts: dict[str, Measured], size: str) -> float:
    """Seconds of the step's counted passes at the speed of bare ones (``size``: batch's)."""
    images = step.entry.images

    def per_image(name: str) -> float:
        return parts[name].best / parts[name].entry.images

    # The update's own pass is among those counted.
    backwards = step.backwards - 1
    extra = (step.forwards - 1) - backwards
    attack = backwards * per_image(f"pass, {size}") + extra * per_image(f"forward, {size}")
    return images * attack + parts["update"].best


def gairat_by_its_authors(subject: Subject, plan: Plan) -> Entry:
    """GAIRAT's step in its authors' manner, written from a description of it.

    Full backward passes inside the attack, so that weight gradients are formed in each step, and
    kappa counted by a Python loop over the images of the batch.
    """
    model = trainee(subject)
    descent = optimizer(model)
    images, labels = subject.images, subject.labels
    step_size = plan.simulated.pace

    def work() -> None:
        current, kappa = _counting_ascent(model, images, labels, plan.steps, step_size)
        model.train()
        descent.zero_grad()
        losses = F.cross_entropy(model(current), labels, reduction="none")
        half = plan.steps // 2
        weights = (torch.tanh(LAMBDA + 5 * (half - kappa) / half) + 1) / 2
        weights = weights * len(weights) / weights.sum()
        (losses * weights).mean().backward()
        descent.step()

    return Entry(
        name="GAIRAT | as its authors write it", work=work, watched=(model,), images=len(images)
    )


def _counting_ascent(
    model: nn.Module, images: Tensor, labels: Tensor, steps: int, step_size: float
) -> tuple[Tensor, Tensor]:
    model.eval()
    kappa = torch.zeros(len(images))
    current = images + torch.empty_like(images).uniform_(-EPSILON, EPSILON)
    current = current.clamp(0, 1)
    for _ in range(steps):
        current.requires_grad_()
        logits = model(current)
        predicted = logits.argmax(1)
        for position in range(len(images)):
            if predicted[position] == labels[position]:
                kappa[position] += 1
        model.zero_grad()
        F.cross_entropy(logits, labels).backward()
        with torch.no_grad():
            current = current + step_size * current.grad.sign()
            current = torch.min(torch.max(current, images - EPSILON), images + EPSILON)
            current = current.clamp(0, 1)
    return current.detach(), kappa


def sat_with_torchattacks(subject: Subject, plan: Plan) -> Entry:
    """Standard adversarial training as one writes it around torchattacks' PGD."""
    import torchattacks

    model = trainee(subject)
    descent = optimizer(model)
    attack = torchattacks.PGD(
        model, eps=EPSILON, alpha=plan.simulated.pace, steps=plan.steps, random_start=True
    )

    def work() -> None:
        current = attack(subject.images, subject.labels)
        bare_update(model, descent, current, subject.labels)

    return Entry(
        name="SAT | torchattacks and a loop",
        work=work,
        watched=(model,),
        images=len(subject.images),
    )
