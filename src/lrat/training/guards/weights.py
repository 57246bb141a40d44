"""Weights that leave most images out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lrat.training.guards.readings import Reading, percent


@dataclass(frozen=True, kw_only=True)
class CollapsedWeights:
    """The loss rests on a few images.

    Speaks where, ``patience`` epochs in a row, terms that hold more than half of the loss have an
    effective sample size (sum w)^2 / sum w^2 (Kish 1965) below ``least`` of the images. Gradients
    are then those of a batch that much smaller, of images that are often mislabelled or beyond the
    model, while nobody looks at the others: reweighted models that are strong under PGD and weak
    under other attacks are made so (Hitaj et al. 2021 on GAIRAT). SAT has 1.
    """

    least: float = 0.1
    patience: int = 2
    name: ClassVar[str] = "collapsed-weights"
    implied_by: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, readings: Sequence[Reading]) -> str | None:
        latest = readings[-self.patience :]
        thin = [self._thin(each) for each in latest]
        if len(latest) < self.patience or not all(thin):
            return None
        now = latest[-1]
        term = thin[-1][0]
        effective = now.loads[term].effective
        per_step = now.images / max(now.taken + now.skipped, 1)
        return (
            f"the weights of term {', '.join(map(repr, thin[-1]))} have collapsed onto few images: "
            f"an effective sample size of {percent(effective)}, about {effective * per_step:.0f} "
            f"of the {per_step:.0f} images of a step: use a gentler weighting (a smaller beta, a "
            "lambda nearer 0 or above), a min_weight, or larger batches, and check the model under "
            "attacks other than the training's"
        )

    def _thin(self, reading: Reading) -> list[str]:
        """The terms with few images, the largest first, if they hold most of the loss."""
        found = [term for term, load in reading.loads.items() if load.effective < self.least]
        total = sum(load.share for load in reading.loads.values())
        held = sum(reading.loads[term].share for term in found)
        if total <= 0 or held <= total / 2:
            return []
        return sorted(found, key=lambda term: -reading.loads[term].share)


@dataclass(frozen=True, kw_only=True)
class NoWeights:
    """In most steps of an epoch the weights were all 0 and uniform ones stood in."""

    name: ClassVar[str] = "no-weights"
    implied_by: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, readings: Sequence[Reading]) -> str | None:
        now = readings[-1]
        if 2 * now.fallbacks <= now.taken:
            return None
        return (
            f"in {now.fallbacks} of {now.taken} steps all weights of the batch "
            "(with normalization 'instance': of some image) were 0, so that uniform ones "
            "were used and nothing was reweighted: set min_weight above 0 or use a weighting that "
            "keeps some weight"
        )
