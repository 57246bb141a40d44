"""An attack that does nothing: training is then not adversarial, whatever it is called."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lrat.data.scale import odd_scale
from lrat.training.guards.examination import LEAST_GAIN, SURE, Examined
from lrat.training.guards.readings import Reading, percent
from lrat.training.guards.rules import IDLE


@dataclass(frozen=True, kw_only=True)
class IdleAttack:
    """A term whose attack fools no more images than random noise of the same size.

    Of the images that are classified correctly when clean, in the first batches of all epochs so
    far, the share that only the attack fools, less the share that only its noise fools, is below
    2 % with two standard errors to spare (at least 100 such images are needed), and the attack
    fools less than ``most`` of them at all, so that a region in which noise does harm as well says
    nothing. Over all epochs, because a model may come to withstand its attack.
    """

    most: float = 0.1
    name: ClassVar[str] = IDLE
    implied_by: ClassVar[frozenset[str]] = frozenset({"image-scale"})

    def __call__(self, readings: Sequence[Reading]) -> str | None:
        idle = {
            term: counts
            for term, counts in readings[-1].examined.items()
            if counts.gain(SURE) < LEAST_GAIN and counts.fooled < self.most * counts.right
        }
        if not idle:
            return None
        counts = next(iter(idle.values()))
        return (
            f"the attack of term {', '.join(map(repr, idle))} does not lower accuracy: of "
            f"{counts.right} training images classified correctly it "
            f"{_deeds(counts)}: check its epsilon and step_size, and that the model's logits "
            "depend on the images smoothly; without a working attack this is natural training"
        )


def _deeds(counts: Examined) -> str:
    if not counts.changed:
        return "changes none"
    fooled = percent(counts.fooled / counts.right)
    return f"fools {fooled}, no more than random noise of the same size does"


@dataclass(frozen=True, kw_only=True)
class ImageScale:
    """Training images outside [0, 1], where attacks and epsilon live, or in a corner of it.

    Looks at the first batch of each epoch: 0 to 255, normalised images, images divided by 255
    twice (``data.scale``).
    """

    name: ClassVar[str] = "image-scale"
    implied_by: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, readings: Sequence[Reading]) -> str | None:
        for counts in readings[-1].examined.values():
            said = odd_scale(counts.darkest, counts.brightest, "training images")
            if said is not None:
                return said
        return None
