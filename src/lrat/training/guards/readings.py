"""What guards look at: an epoch in a few plain numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lrat.training.guards.examination import LEAST_GAIN, SURE, Examined
from lrat.training.metrics import EpochRecord

NATURAL = "natural"
"""What validation calls its accuracy without an attack."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An accuracy under attack that is measured after each epoch: its name in the records, on how
    many ``images``."""

    name: str
    images: int


@dataclass(frozen=True, kw_only=True)
class Load:
    """How one term carries the loss: its mean ``share``, and the effective sample size of its
    shares as a fraction of the images (``metrics.effective_sample_size``)."""

    share: float
    effective: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One epoch as guards see it; accuracies are fractions, None where nobody measured.

    ``taken`` steps changed the weights, ``skipped`` did not, ``fallbacks`` of those taken had no
    weights but 0. ``training``: accuracy of the training forwards under the training attack.
    ``held_out`` and ``natural``: on held-out images, under attack and without one; ``selecting``:
    what the choice among epochs goes by (of the averaged weights where there are any). ``clean``:
    on training images without an attack, in eval mode after the epoch; ``probe``: on such images
    under a stronger attack. ``loads``: by term. ``examined``: what the training
    attacks did so far, by term; empty where there are none (natural training).
    """

    epoch: int
    images: int
    taken: int
    skipped: int = 0
    fallbacks: int = 0
    training: float | None = None
    held_out: float | None = None
    natural: float | None = None
    selecting: float | None = None
    clean: float | None = None
    probe: float | None = None
    loads: Mapping[str, Load] = field(default_factory=dict)
    examined: Mapping[str, Examined] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        record: EpochRecord,
        examined: Mapping[str, Examined],
        *,
        validation: Measured | None,
        probe: Measured | None,
    ) -> "Reading":
        """From an epoch's record and what ``Examination`` has counted."""
        held_out = None if validation is None else _finite(record.validation.get(validation.name))
        averaged = (
            None if validation is None else record.average.get(f"validation/{validation.name}")
        )
        return cls(
            epoch=record.epoch,
            images=record.images,
            taken=record.steps - record.skipped,
            skipped=record.skipped,
            fallbacks=record.fallbacks,
            training=_finite(record.robust_accuracy),
            held_out=held_out,
            natural=_finite(record.validation.get(NATURAL)),
            selecting=held_out if averaged is None else _finite(averaged),
            clean=_finite(record.clean_accuracy),
            probe=None if probe is None else _finite(record.probe.get(probe.name)),
            loads=_loads(record),
            examined=dict(examined),
        )

    @property
    def attacked(self) -> bool:
        """Whether some training attack is seen to fool more images than random noise does."""
        return any(counts.gain(-SURE) > LEAST_GAIN for counts in self.examined.values())

    def plain(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        held = vars(self) | {
            "loads": {term: vars(load) for term, load in self.loads.items()},
            "examined": {term: vars(counts) for term, counts in self.examined.items()},
        }
        return dict(held)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Reading":
        """The inverse of ``plain``."""
        loads = {term: Load(**load) for term, load in values["loads"].items()}
        examined = {term: Examined(**counts) for term, counts in values["examined"].items()}
        return cls(**{**values, "loads": loads, "examined": examined})


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _loads(record: EpochRecord) -> dict[str, Load]:
    found = {}
    for term, values in record.terms.items():
        share = _finite(values.get("share"))
        effective = _finite(values.get("effective_sample_size"))
        if share is not None and effective is not None:
            found[term] = Load(share=share, effective=effective)
    return found


def noise(first: float, second: float, images: int) -> float:
    """The standard error of the difference of two accuracies on ``images`` images each.

    Of independent binomial counts: an upper bound where both are of the same images. Each count is
    taken with one success and one failure more, so that 0 and 1 have an error as well.
    """
    total = 0.0
    for share in (first, second):
        moved = (share * images + 1) / (images + 2)
        total += moved * (1 - moved) / images
    return math.sqrt(total)


def percent(share: float) -> str:
    """``51.1 %``."""
    return f"{100 * share:.1f} %"


def epochs(readings: Sequence[Reading]) -> str:
    """``epoch 7`` or ``epochs 5 to 7``."""
    first, last = readings[0].epoch, readings[-1].epoch
    return f"epoch {first}" if first == last else f"epochs {first} to {last}"
