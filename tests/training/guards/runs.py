"""Short trainings on real digits under guards, and readings made by hand."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from builders import seeded
from lrat.attacks import PGD
from lrat.attacks.pgd import Start
from lrat.data import InMemory, image_data
from lrat.objectives import Objective, Reweighted, Term
from lrat.threat import Linf
from lrat.training import Optimisation, Watch, train
from lrat.training.guards import Guards, Measured, Notice, Probe, Reading, standard_guards
from lrat.training.guards.readings import Examined
from lrat.training.watch import Measure
from lrat.types import Batch
from lrat.weighting import Uniform, Weighting
from trained import digits

HELD = 300
WORKING = Examined(
    images=1000,
    right=900,
    fooled=300,
    only_attack=290,
    only_noise=10,
    changed=1000,
    darkest=0.0,
    brightest=1.0,
)
"""Counts of an attack that does something."""


def batch(first: int, last: int, labels: Tensor | None = None) -> Batch:
    """Digits of these positions."""
    images, truth = digits()
    rows = torch.arange(first, last)
    return Batch(images=images[rows], labels=(labels or truth)[rows], index=rows)


def network() -> nn.Sequential:
    return seeded(
        0,
        lambda: nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 128),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Linear(128, 10),
        ),
    )


def sat(
    epsilon: float,
    *,
    steps: int = 5,
    step_size: float | None = None,
    start: Start = "uniform",
    weighting: Weighting | None = None,
) -> Reweighted:
    """Standard adversarial training; PGD in steps of epsilon / 4 unless told otherwise."""
    size = epsilon / 4 if step_size is None else step_size
    attack = PGD(threat=Linf(epsilon=epsilon), steps=steps, step_size=size, start=start)
    return Reweighted(terms=[Term(name="pgd", attack=attack, weighting=weighting or Uniform())])


def validation(epsilon: float, held: int = HELD) -> Measure:
    """Natural and PGD-5 accuracy on the last ``held`` digits."""
    some = batch(1797 - held, 1797)
    attack = PGD(threat=Linf(epsilon=epsilon), steps=5, step_size=epsilon / 4)

    def measure(model: nn.Module) -> dict[str, float]:
        variant = attack(model, some.images, some.labels, noise=0)
        with torch.no_grad():
            return {
                name: float((model(images).argmax(1) == some.labels).float().mean())
                for name, images in (("natural", some.images), ("pgd-5", variant.images))
            }

    return measure


def guarded(
    objective: Objective,
    *,
    epsilon: float,
    epochs: int,
    images: int = 800,
    labels: Tensor | None = None,
    held: int = HELD,
    probed: bool = False,
    model: nn.Module | None = None,
    **optimisation: Any,
) -> list[Notice]:
    """What guards say in a training on the first digits, with held-out images or with a probe."""
    data, truth = digits()
    chosen = (truth if labels is None else labels)[:images]
    source = InMemory(image_data(data[:images], chosen), batch_size=64)
    measured = Measured(name="pgd-5", images=held)
    probe = Probe(batches=(batch(0, 60),), threat=Linf(epsilon=epsilon)) if probed else None
    guards = (
        standard_guards(validation=measured, selects=True)
        if probe is None
        else standard_guards(probe=probe.measured)
    )
    result = train(
        model or network(),
        source,
        objective,
        Optimisation(epochs=epochs, **{"weight_decay": 0.0, "drops": {}, **optimisation}),
        watch=Watch(
            validate=None if probed else validation(epsilon, held),
            select_by=None if probed else "pgd-5",
            probe=probe,
            guards=guards,
        ),
    )
    return [
        Notice(guard=said["guard"], epoch=record.epoch, text=said["text"])
        for record in result.records
        for said in record.notices
    ]


def reading(epoch: int, **values: Any) -> Reading:
    """An epoch of twenty steps on 1,200 images with a working attack."""
    defaults = {"images": 1200, "taken": 20, "examined": {"pgd": WORKING}}
    return Reading(epoch=epoch, **{**defaults, **values})


def series(**columns: Sequence[Any]) -> list[Reading]:
    """A reading per epoch from columns of equal length."""
    rows = zip(*columns.values(), strict=True)
    return [
        reading(epoch, **dict(zip(columns, row, strict=True))) for epoch, row in enumerate(rows, 1)
    ]


def spoken(guards: Guards, records: Sequence[Any]) -> list[tuple[str, int]]:
    """Which guard spoke after which epoch."""
    return [(said.guard, said.epoch) for record in records for said in guards.after_epoch(record)]
