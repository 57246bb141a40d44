"""The protocol between methods and the training loop: first attack, then loss."""

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
    """The inputs of a step beside its batch.

    ``epoch`` counts from 0; ``progress`` = epoch / schedule_epochs, so that the fractions of a
    schedule of 100 epochs stay the same when training stops after 66; ``noise`` of this batch's
    images in this epoch; ``mean_across_processes`` averages a tensor over processes (the identity
    for one); ``weighed`` (bool): whether an earlier batch of the same step had weight, None for the
    first; ``memory``: named tensors that persist across steps and are checkpointed.
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
    ``fallback`` is 1 where all weights were zero and uniform ones replaced them.
    ``stand_in`` is 1 where that is so for the whole batch, so that total and normalizer count only
    if no other batch of the step has weight either; None from objectives without this case.
    ``correct`` [B] bool: whether the training forward classified the first variant (without
    variants the clean image) correctly: robust training accuracy without another pass.
    """

    total: Scalar
    normalizer: Scalar
    per_example: Mapping[str, PerExample]
    fallback: Scalar | None = None
    stand_in: Scalar | None = None
    correct: Tensor | None = None


@runtime_checkable
class Objective(Protocol):
    """``attack`` computes variants with the attack's view of the model; ``loss`` scores the model.

    The training loop handles backward, optimiser, precision and device. Both methods may call the
    model any number of times; ``attack`` leaves modes and gradients as they were.
    """

    def attack(self, view: nn.Module, batch: Batch, step: StepContext) -> dict[str, Variant]:
        """Variants by name, from attacks on ``view``, the attack's view of the model."""
        ...

    def loss(
        self, model: nn.Module, batch: Batch, variants: Mapping[str, Variant], step: StepContext
    ) -> ObjectiveOutput:
        """Total and normalizer of the batch with gradients, from ``model`` in train mode."""
        ...
