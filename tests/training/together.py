"""Trainings that several processes do together, to be held against one process's."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from builders import seeded
from lrat.acceleration import View
from lrat.acceleration.view import PlainView
from lrat.attacks import PGD
from lrat.attacks.base import Variant
from lrat.distributed.group import FabricGroup, ProcessGroup, SingleProcess, shares
from lrat.errors import Paused, RunFolderError
from lrat.objectives import Objective, Reweighted, Term
from lrat.objectives.base import ObjectiveOutput, StepContext
from lrat.threat import Linf
from lrat.training import EpochRecord, Optimisation, StepProgress, Storage, Watch, train
from lrat.types import Batch
from lrat.weighting import Evidence, MarginPower
from training.toys import ToySource, data, network, timeless, validate, weights

MINUTES = 0.5 / 60
STEPS, EPOCHS = 4, 5
"""Batches of 8, 8, 8 and 2 of 26 images: of three processes one has none of the last."""
PGD_3 = PGD(threat=Linf(epsilon=0.1), steps=3, step_size=0.05)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Weight for two classes of three: now and then a share, or a whole batch, has none."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, evidence: Evidence) -> Tensor:
        return (evidence.labels == 2).float()


@dataclass(frozen=True, kw_only=True)
class Poisoned:
    """An objective whose loss is NaN where one image is, in one epoch: in one process's share."""

    objective: Reweighted
    image: int = 103
    epoch: int = 1

    def attack(self, view: nn.Module, batch: Batch, step: StepContext) -> dict[str, Variant]:
        return self.objective.attack(view, batch, step)

    def loss(
        self, model: nn.Module, batch: Batch, variants: Mapping[str, Variant], step: StepContext
    ) -> ObjectiveOutput:
        output = self.objective.loss(model, batch, variants, step)
        if step.epoch == self.epoch and self.image in batch.index.tolist():
            output = replace(output, total=output.total * torch.nan)
        return output


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is trained, and the settings of its optimisation."""

    objective: Objective
    normalised: bool = False
    settings: Mapping[str, Any]


def lrat(normalization: str, floor: float) -> Reweighted:
    margin = MarginPower(alpha=2.0, beta=0.5)
    terms = [
        Term(name="pgd", attack=PGD_3, weighting=margin),
        Term(name="weak", attack=replace(PGD_3, steps=1), weighting=margin),
    ]
    return Reweighted(terms=terms, min_weight=floor, normalization=normalization)


def unmoved() -> Reweighted:
    """Clean images, weighted by their margins: no attack that would see running statistics."""
    margin = MarginPower(alpha=2.0, beta=0.5)
    return Reweighted(terms=[Term(name="clean images", attack=same_images, weighting=margin)])


def same_images(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return images


def with_batch_statistics() -> nn.Sequential:
    return seeded(
        0,
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(16, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 3)
        ),
    )


class InShares(ToySource):
    """Each batch of 13 as the shares of so many processes, one after the other."""

    def __init__(self, count: int) -> None:
        super().__init__(size=13)
        self.count = count

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            yield from shares(batch, self.count)


def scenarios() -> dict[str, Scenario]:
    """By name. Of two terms the weights of an image sum to at most 5.7: a floor of 4 acts on
    some, one of .1 on none."""
    found = {
        f"{normalization}, floor {floor}": Scenario(
            objective=lrat(normalization, floor), settings={}
        )
        for normalization in ("batch", "instance", "none")
        for floor in (0.1, 4.0)
    }
    sparse = Reweighted(terms=[Term(name="pgd", attack=PGD_3, weighting=Chosen())])
    extras = {"clip": 0.5, "ema": 0.9, "accumulate": 2}
    return found | {
        "no weight in some": Scenario(objective=sparse, settings={}),
        "no weight in some, accumulated": Scenario(objective=sparse, settings={"accumulate": 2}),
        "clipped, averaged, accumulated": Scenario(objective=lrat("batch", 0.1), settings=extras),
        "not finite in one": Scenario(
            objective=Poisoned(objective=lrat("none", 0.1)),
            settings={"non_finite": "skip", "ema": 0.9},
        ),
        "batch statistics": Scenario(objective=unmoved(), normalised=True, settings={}),
    }


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one process: its model's weights, those to report, the records."""

    weights: dict[str, Tensor]
    reported: dict[str, Tensor]
    records: list[EpochRecord]


def trained(
    scenario: Scenario,
    group: ProcessGroup,
    folder: Path | None = None,
    *,
    max_minutes: float | None = None,
    source: ToySource | None = None,
    view: Callable[[nn.Module], nn.Module] | None = None,
    **watch: Any,
) -> Outcome:
    model = with_batch_statistics() if scenario.normalised else network(normalised=False)
    if source is None:
        source = ToySource(size=13 if scenario.normalised else 8)
    result = train(
        model,
        source,
        scenario.objective,
        Optimisation(epochs=EPOCHS, lr=0.1, **scenario.settings),
        watch=Watch(clean=[data(10)], validate=validate, select_by="pgd", **watch),
        storage=None if folder is None else Storage(folder=folder, identity="toy"),
        group=group,
        max_minutes=max_minutes,
        view=view,
    )
    return Outcome(
        weights=weights(model), reported=dict(result.weights), records=timeless(result.records)
    )


class Slow:
    """Waits in the second epoch, until the time that one of the processes has is over."""

    def on_step(self, progress: StepProgress) -> None:
        if (progress.epoch, progress.step) == (2, 2):
            time.sleep(2 * 60 * MINUTES)

    def on_epoch(self, record: EpochRecord) -> None:
        return


def left_view(model: nn.Module) -> View:
    """As attacks see the model when they have left another view."""
    view = PlainView(model)
    view.notes = ("the view was left",)
    return view


@dataclass(frozen=True, kw_only=True)
class AllScenarios:
    """In each process: every scenario, and what the processes know of each other's results."""

    folder: str

    def __call__(self, fabric: Any) -> dict[str, Any]:
        torch.set_num_threads(1)
        group = FabricGroup(fabric)
        found: dict[str, Any] = {
            name: trained(scenario, group) for name, scenario in scenarios().items()
        }
        found["processes"] = group.size
        batch_statistics = found["batch statistics"].weights.values()
        own = torch.cat([value.flatten().double() for value in batch_statistics])
        found["all are the same model"] = bool((group.gather(own) == own).all())
        scenario = scenarios()["batch, floor 0.1"]
        folder = Path(self.folder) / "stopped"
        last = group.rank == group.size - 1
        limit = {"progress": Slow(), "max_minutes": MINUTES} if last else {}
        try:
            trained(scenario, group, folder, **limit)
        except Paused as stopped:
            found["stopped"] = str(stopped)
        found["continued"] = trained(scenario, group, folder)
        apart = Path(self.folder) / str(group.rank)
        if group.rank == 0:
            trained(scenario, SingleProcess(), apart)
        try:
            trained(scenario, group, apart)
        except RunFolderError as error:
            found["apart"] = str(error)
        view = left_view if last else None
        found["view left in the last"] = trained(scenario, group, view=view)
        return found


def alone() -> dict[str, Outcome]:
    return {name: trained(scenario, SingleProcess()) for name, scenario in scenarios().items()}


class Narrow(nn.Module):
    """Runs out of memory on the way back, with more than ``room`` images, in one process."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.model = network(normalised=False)
        self.room = room

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        if logits.requires_grad and not images.requires_grad and len(images) > self.room:
            logits.register_hook(self.fail)
        return logits

    def fail(self, gradient: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


@dataclass(frozen=True, kw_only=True)
class Short:
    """In each process: a training whose steps fit into the memory of all but one."""

    def __call__(self, fabric: Any) -> None:
        group = FabricGroup(fabric)
        train(
            Narrow(3 if group.rank == 1 else 1000),
            ToySource(size=16),
            lrat("batch", 0.1),
            Optimisation(epochs=1),
            group=group,
        )
