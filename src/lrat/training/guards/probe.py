"""A stronger attack on a few training images, where no held-out images meet one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lrat.attacks import PGD
from lrat.modes import evaluating
from lrat.outputs import forward_logits
from lrat.randomness import Keyed, keys
from lrat.threat import Ball
from lrat.training.guards.readings import Measured
from lrat.training.step import Refreshable
from lrat.types import Batch

STEPS = 10
MOST = 128
LEAST = 32


def probe_size(images: int) -> int:
    """How many of ``images`` training images to probe: a twentieth, from 32 to 128.

    With ten steps that is at most 5 % of the passes of a PGD-10 epoch (of more than 640 images),
    and .2 % of one on CIFAR-10.
    """
    return min(images, MOST, max(LEAST, images // 20))


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Accuracy under PGD-10 with steps of epsilon / 4 on ``batches``: a ``Measure``.

    Only ``CatastrophicOverfitting`` needs it, to which multi-step attacks look alike, and only
    where validation does not measure such an attack already. ``view``: what the attack sees,
    refreshed first. The same noise every time, so epochs differ by the weights alone.
    """

    batches: Sequence[Batch]
    threat: Ball
    view: nn.Module | None = None
    seed: int = 0

    @property
    def measured(self) -> Measured:
        """What guards must know of it."""
        return Measured(name=f"pgd-{STEPS}", images=sum(len(batch) for batch in self.batches))

    def __call__(self, model: nn.Module) -> Mapping[str, float]:
        attack = PGD(threat=self.threat, steps=STEPS, step_size=self.threat.epsilon / 4)
        seen = model if self.view is None else self.view
        if isinstance(seen, Refreshable):
            seen.refresh()
        right = []
        with evaluating(model):
            for batch in self.batches:
                noise = Keyed(keys(self.seed, batch.index)).child("probe")
                found = attack(seen, batch.images, batch.labels, noise=noise)
                with torch.no_grad():
                    verdicts = forward_logits(model, found.images).argmax(1) == batch.labels
                right.append(verdicts.sum())
        measured = self.measured
        return {measured.name: float(torch.stack(right).sum()) / measured.images}
