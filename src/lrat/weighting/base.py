"""The protocol of weightings, and their argument."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch

from lrat.types import Counts, Labels, Logits, PerExample


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The argument of a weighting, for one variant of each image.

    ``logits`` [B K] of the training forward, detached here; ``labels`` [B]; ``steps_survived`` [B]
    and ``max_steps`` where the attack counts them.
    """

    logits: Logits
    labels: Labels
    steps_survived: Counts | None = None
    max_steps: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "logits", self.logits.detach())


@runtime_checkable
class Weighting(Protocol):
    """``(evidence) -> [B]``: finite, >= 0, without gradient; ``needs`` names required evidence."""

    @property
    def needs(self) -> frozenset[str]: ...

    def __call__(self, evidence: Evidence) -> PerExample:
        """[B]: the raw weight of each image, before Eq. 15."""
        ...


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Weight 1 for every image: standard and locally standard adversarial training."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, evidence: Evidence) -> PerExample:
        return torch.ones_like(evidence.logits[:, 0], dtype=torch.float32)
