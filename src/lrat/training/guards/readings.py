"""What guards look at: an epoch in a few plain numbers.

``Examination`` asks on the first batch of each epoch whether the training attack does anything;
``Probe`` is a stronger attack on a few training images, where no held-out images meet one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lrat.attacks import PGD
from lrat.attacks.base import Variant
from lrat.distributed.group import ProcessGroup, SingleProcess
from lrat.modes import evaluating
from lrat.outputs import forward_logits
from lrat.randomness import Keyed, keys
from lrat.threat import Ball
from lrat.training.metrics import EpochRecord
from lrat.training.step import Refreshable
from lrat.types import Batch, Images

NATURAL = "natural"
"""What validation calls its accuracy without an attack."""

LEAST_GAIN = 0.02
"""An attack does something if it fools this share of images that random noise does not."""
SURE = 2.0
"""So many standard errors make a count evidence."""
_COUNTS = ("images", "right", "fooled", "only_attack", "only_noise", "changed")

STEPS = 10
MOST = 128
LEAST = 32


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
class Examined:
    """Counts of images over the examined batches of one term, and the range of their pixels.

    ``right``: classified correctly when clean. Of these, ``fooled`` by the variant;
    ``only_attack`` by the variant and not by its noise, ``only_noise`` the other way round.
    ``changed``: whose variant differs from the image.
    """

    images: int
    right: int
    fooled: int
    only_attack: int
    only_noise: int
    changed: int
    darkest: float
    brightest: float

    def gain(self, deviations: float = 0.0) -> float:
        """The share of the ``right`` images that the attack fools beyond what its noise does, so
        many standard errors (McNemar's, one image more) above or below what was counted."""
        if not self.right:
            return deviations * math.inf if deviations else 0.0
        counted = self.only_attack - self.only_noise
        error = math.sqrt(self.only_attack + self.only_noise + 1)
        return (counted + deviations * error) / self.right


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
    loads = {}
    for term, values in record.terms.items():
        share = _finite(values.get("share"))
        effective = _finite(values.get("effective_sample_size"))
        if share is not None and effective is not None:
            loads[term] = Load(share=share, effective=effective)
    return loads


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


def epochs(readings: Sequence[Reading]) -> str:
    """``epoch 7`` or ``epochs 5 to 7``."""
    first, last = readings[0].epoch, readings[-1].epoch
    return f"epoch {first}" if first == last else f"epochs {first} to {last}"


class Examination:
    """Holds a batch's variants against the images and against random noise of the same size.

    The noise of a variant has its changes pixel by pixel with their signs drawn at random, so a
    step that looks for nothing (size 0, gradients that are 0) shows no difference to it, however it
    starts. Each call costs one forward of the images and two per variant, in eval mode with the
    attacks' view; the counts stay on the device until they are read.
    """

    def __init__(self) -> None:
        self._counts: dict[str, Tensor] = {}
        self._ranges: dict[str, Tensor] = {}

    def __call__(
        self,
        view: nn.Module,
        batch: Batch,
        variants: Mapping[str, Variant],
        *,
        group: ProcessGroup | None = None,
        counts: bool = True,
    ) -> None:
        """Count what ``variants`` of ``batch`` do to ``view``, which no update has changed since
        the attack. Of several processes each examines its share and all know the counts of the
        whole batch; ``counts`` is False for one whose share has no image."""
        if not variants:
            return
        with evaluating(view), torch.no_grad():
            right = _right(view, batch.images, batch)
            for term, variant in variants.items():
                attacked = _right(view, variant.images, batch)
                noisy = _right(view, _scrambled(batch, variant, term), batch)
                differs = (variant.images != batch.images).flatten(1).any(1)
                self._add(
                    term,
                    [
                        torch.ones_like(right),
                        right,
                        right & ~attacked,
                        right & ~attacked & noisy,
                        right & attacked & ~noisy,
                        differs,
                    ],
                    batch.images,
                    SingleProcess() if group is None else group,
                    counts,
                )

    def _add(
        self, term: str, flags: list[Tensor], images: Images, group: ProcessGroup, counting: bool
    ) -> None:
        sums = torch.stack([flag.sum() for flag in flags])
        darkest, brightest = images.aminmax()
        share = torch.stack([*(sums * counting), darkest, brightest])
        gathered = group.gather(share.float())
        counts = gathered[:, :-2].sum(0).long()
        darkest, brightest = gathered[:, -2].amin().float(), gathered[:, -1].amax().float()
        span = torch.stack([darkest, brightest])
        if term in self._counts:
            before = self._ranges[term].to(span.device)
            counts = counts + self._counts[term].to(counts.device)
            span = torch.stack([torch.minimum(before[0], darkest), before[1].maximum(brightest)])
        self._counts[term] = counts
        self._ranges[term] = span

    def read(self) -> dict[str, Examined]:
        """By term; waits for the device."""
        examined = {}
        for term, counts in self._counts.items():
            darkest, brightest = self._ranges[term].tolist()
            values = dict(zip(_COUNTS, counts.tolist(), strict=True))
            examined[term] = Examined(**values, darkest=darkest, brightest=brightest)
        return examined

    def state_dict(self) -> dict[str, Any]:
        return {term: dict(vars(counts)) for term, counts in self.read().items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        self._counts = {
            term: torch.tensor([values[name] for name in _COUNTS]) for term, values in state.items()
        }
        self._ranges = {
            term: torch.tensor([values["darkest"], values["brightest"]])
            for term, values in state.items()
        }


def _right(view: nn.Module, images: Images, batch: Batch) -> Tensor:
    return forward_logits(view, images).argmax(1) == batch.labels


def _scrambled(batch: Batch, variant: Variant, term: str) -> Images:
    """The images with the variant's changes, each pixel's sign drawn anew."""
    drawn = Keyed(keys(0, batch.index)).child("guards").uniform(batch.images.shape, term)
    changes = variant.images - batch.images
    return (batch.images + torch.where(drawn < 0.5, changes, -changes)).clamp(0, 1)


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
                variant = attack(seen, batch.images, batch.labels, noise=noise)
                with torch.no_grad():
                    verdicts = forward_logits(model, variant.images).argmax(1) == batch.labels
                right.append(verdicts.sum())
        measured = self.measured
        return {measured.name: float(torch.stack(right).sum()) / measured.images}
