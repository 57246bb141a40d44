"""Batches, steps and linear models for tests of objectives."""

import torch
from torch import Tensor, nn

from builders import seeded
from lrat.objectives import Objective, ObjectiveOutput, StepContext
from lrat.randomness import Keyed, keys
from lrat.types import Batch


def linear(weight: list[list[float]]) -> nn.Sequential:
    """The model whose logits are ``weight`` [K][D] times the flat image."""
    layer = seeded(0, lambda: nn.Linear(len(weight[0]), len(weight), bias=False))
    layer.load_state_dict({"weight": torch.tensor(weight)})
    return nn.Sequential(nn.Flatten(), layer)


def as_images(rows: list[list[float]]) -> Tensor:
    """[B][D] as images [B 1 1 D]."""
    return torch.tensor(rows)[:, None, None, :]


def batch_of(images: Tensor, labels: Tensor, first: int = 0) -> Batch:
    """These images with the numbers ``first``, ``first + 1``, ..."""
    return Batch(images=images, labels=labels, index=torch.arange(first, first + len(labels)))


def rows_of(batch: Batch, rows: slice) -> Batch:
    """A part of the batch; every image keeps its number."""
    return Batch(images=batch.images[rows], labels=batch.labels[rows], index=batch.index[rows])


def step_of(batch: Batch, *, progress: float = 0.0, seed: int = 0) -> StepContext:
    return StepContext(epoch=0, progress=progress, noise=Keyed(keys(seed, batch.index)))


def attack_and_score(
    objective: Objective, model: nn.Module, batch: Batch, *, progress: float = 0.0
) -> ObjectiveOutput:
    """Both phases of the objective with the same model."""
    step = step_of(batch, progress=progress)
    return objective.loss(model, batch, objective.attack(model, batch, step), step)


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    """The gradient of each parameter, without touching ``grad``."""
    return list(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True))
