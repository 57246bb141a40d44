"""The two-phase contract between methods and the training loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from lrat.attacks.base import Variant
from lrat.randomness import Noise
from lrat.types import Batch, PerExample, Scalar


def _alone(value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """What a step knows beyond its batch.

    ``epoch`` counts from 0; ``progress`` = epoch / schedule_epochs, so that a schedule of 100
    epochs stopped after 66 keeps its fractions; ``noise`` of this batch's images in this epoch;
    ``mean_across_processes`` averages a tensor over processes (the identity for one);
    ``weighed`` (bool): whether an earlier batch of the same step had weight, None for the first;
    ``memory``: named tensors that live across steps and are checkpointed.
    """

    epoch: int
    progress: float
    noise: Noise
    mean_across_processes: Callable[[Tensor], Tensor] = _alone
    weighed: Tensor | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ObjectiveOutput:
    """The loss is ``total / normalizer``, both summed over micro-batches and processes first.

    ``per_example``: detached [B] records: ``loss/<term>``, ``weight/<term>`` (raw) and
    ``share/<term>`` (the coefficient under the normalisation, in units where the mean row is 1).
    ``fallback`` is 1 where all weights were zero and uniform ones were used instead.
    ``stand_in`` is 1 where that holds of the whole batch, so that total and normalizer count only
    if no other batch of the step has weight either; None from objectives that have no such case.
    ``correct`` [B] bool: whether the training forward still classified the first variant (the
    clean image where there is none) correctly: robust training accuracy without a pass of its own.
    """

    total: Scalar
    normalizer: Scalar
    per_example: Mapping[str, PerExample]
    fallback: Scalar | None = None
    stand_in: Scalar | None = None
    correct: Tensor | None = None


@runtime_checkable
class Objective(Protocol):
    """``attack`` makes variants with the attack's view of the model; ``loss`` scores the model.

    The engine owns backward, optimiser, precision and device. Both phases may call ``model`` as
    often as they like; ``attack`` leaves modes and gradients as they were.
    """

    def attack(self, view: nn.Module, batch: Batch, step: StepContext) -> dict[str, Variant]:
        """Variants by name, made with the attack's ``view`` of the model."""
        ...

    def loss(
        self, model: nn.Module, batch: Batch, variants: Mapping[str, Variant], step: StepContext
    ) -> ObjectiveOutput:
        """Total and normalizer of the batch, from ``model`` in train mode, with gradients."""
        ...
