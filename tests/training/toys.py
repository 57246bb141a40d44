"""A small model, a batch source and objectives, whose every part a resumed run must bring back."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from builders import seeded
from lrat.attacks.base import Variant
from lrat.objectives.base import ObjectiveOutput, StepContext
from lrat.training import Optimisation, Storage, TrainingResult, Watch, train
from lrat.training.metrics import TIMES, EpochRecord
from lrat.types import Batch

IMAGES = 26
CLASSES = 3


def data(count: int = IMAGES) -> Batch:
    """Images whose label is the brightest of three regions."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand((count, 1, 4, 4), generator=generator)
    labels = images.flatten(1)[:, :15].reshape(count, CLASSES, 5).sum(2).argmax(1)
    return Batch(images=images, labels=labels, index=torch.arange(count) + 100)


class ToySource:
    """Shuffles by its own epoch counter; hands out batches as the contract of sources says."""

    def __init__(self, batch: Batch | None = None, size: int = 8) -> None:
        self.all = batch or data()
        self.batch_size = size
        self.epoch = 0
        self.position = 0

    @property
    def size(self) -> int:
        return len(self.all)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.epoch))
        while self.position < self.size:
            rows = order[self.position : self.position + self.batch_size]
            self.position += len(rows)
            yield Batch(
                images=self.all.images[rows],
                labels=self.all.labels[rows],
                index=self.all.index[rows],
            )
        self.epoch += 1
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """Cross-entropy on noisy images, weighted by the error; the total is a weighted mean.

    Uses the noise, a tensor that lives across steps, and image gradients in its attack.
    """

    amount: float = 0.1
    drift: float = 0.001
    break_at: int | None = None

    def attack(self, view: nn.Module, batch: Batch, step: StepContext) -> dict[str, Variant]:
        noise = step.noise.uniform(batch.images.shape, "toy")
        images = (batch.images + self.amount * noise).detach().requires_grad_()
        loss = F.cross_entropy(view(images), batch.labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
        moved = images + self.amount * gradient.sign()
        return {"noisy": Variant(images=moved.detach().clamp(0, 1))}

    def loss(
        self, model: nn.Module, batch: Batch, variants: Mapping[str, Variant], step: StepContext
    ) -> ObjectiveOutput:
        logits = model(variants["noisy"].images)
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        seen = step.memory.get("seen", torch.zeros(()))
        step.memory["seen"] = seen + len(batch)
        weights = 0.5 + (1 - logits.softmax(1).gather(1, batch.labels[:, None])[:, 0]).detach()
        weights = weights * (1 + self.drift * step.memory["seen"])
        if self.break_at is not None and seen >= self.break_at:
            losses = losses * torch.nan
        return ObjectiveOutput(
            total=(weights * losses).sum(),
            normalizer=weights.sum(),
            per_example={
                "loss/noisy": losses.detach(),
                "weight/noisy": weights,
                "share/noisy": weights * len(batch) / weights.sum(),
            },
            fallback=torch.ones(()),
            correct=logits.detach().argmax(1) == batch.labels,
        )


def network(*, normalised: bool = True) -> nn.Sequential:
    """With batch statistics and dropout, unless ``normalised`` is False."""
    between = [nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.2)] if normalised else [nn.ReLU()]
    return seeded(
        0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 10), *between, nn.Linear(10, CLASSES))
    )


def run(
    folder: Path | None = None,
    *,
    watch: Watch | None = None,
    identity: str = "toy",
    model: nn.Module | None = None,
    source: ToySource | None = None,
    objective: Weighted | None = None,
    storage: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> tuple[nn.Module, TrainingResult]:
    """Train the toy; ``settings`` are those of ``Optimisation``, ``options`` those of ``train``."""
    network_ = network() if model is None else model
    result = train(
        network_,
        source or ToySource(),
        objective or Weighted(),
        Optimisation(**{"epochs": 3, "lr": 0.1, **settings}),
        watch=watch or Watch(clean=[data(10)], validate=validate),
        storage=None
        if folder is None
        else Storage(folder=folder, identity=identity, **(storage or {})),
        **(options or {}),
    )
    return network_, result


def validate(model: nn.Module) -> dict[str, float]:
    batch = data(40)
    with torch.no_grad():
        return {"pgd": float((model(batch.images).argmax(1) == batch.labels).float().mean())}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def timeless(records: tuple[EpochRecord, ...]) -> list[EpochRecord]:
    return [replace(record, **dict.fromkeys(TIMES, 0.0)) for record in records]
