"""The rules of the guards: what goes wrong in a run, each as one class.

Catastrophic and robust overfitting, an attack that does nothing, skipped steps, too few held-out
images, weights that leave most images out, a model that learns nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lrat.data.arrays import odd_scale
from lrat.text import percent
from lrat.training.guards.readings import (
    LEAST_GAIN,
    SURE,
    Examined,
    Measured,
    Reading,
    epochs,
    noise,
)

CATASTROPHIC = "catastrophic-overfitting"
IDLE = "idle-attack"

_CURE = "lower the learning rate, clip gradients, or look at the images and the loss"


@dataclass(frozen=True, kw_only=True)
class CatastrophicOverfitting:
    """The model learns to fool the training attack instead of withstanding attacks.

    Known from one-step training with large steps: within an epoch accuracy under PGD falls to
    about 0 while that under the training attack rises towards 1 (Wong, Rice and Kolter 2020,
    "Fast is better than free", section 5.4, who stop when PGD accuracy on one training batch drops
    by 20 points in an epoch; Andriushchenko and Flammarion 2020; Kim, Lee and Lee 2021). Speaks
    where either

    * accuracy under the stronger attack has fallen below half of its best, by more than three
      standard errors, and training robust accuracy is higher than it was then; or
    * it never was of use: for ``patience`` epochs training robust accuracy is at least ``learnt``
      and the other is below half of it by more than three standard errors. Held-out images prove
      less, as robust accuracy generalises badly: there it must be below a fifth, where natural
      accuracy is at least four fifths (a model that memorises also fails without an attack).

    Only where the training attack is seen to do something. ``stronger`` is measured on training
    images (the probe, ``held_out`` False) or on held-out ones.
    """

    stronger: Measured
    held_out: bool
    patience: int = 3
    learnt: float = 0.2
    name: ClassVar[str] = CATASTROPHIC
    implied_by: ClassVar[frozenset[str]] = frozenset({IDLE})

    def __call__(self, readings: Sequence[Reading]) -> str | None:
        if not readings[-1].attacked:
            return None
        sign = self._collapsed(readings) or self._never(readings)
        if sign is None:
            return None
        return (
            f"catastrophic overfitting: {sign}: the model withstands the training attack alone; "
            "attack with more steps in training, or with a smaller step_size (for one step at most "
            "1.25 epsilon, from a random start)"
        )

    def _collapsed(self, readings: Sequence[Reading]) -> str | None:
        now = readings[-1]
        current = self._under(now)
        known = [(value, each) for each in readings[:-1] if (value := self._under(each))]
        if current is None or not known:
            return None
        best, then = max(known, key=lambda pair: pair[0])
        fall = best - current
        if current >= best / 2 or fall <= 3 * noise(best, current, self.stronger.images):
            return None
        if now.training is None or then.training is None or now.training <= then.training:
            return None
        return (
            f"accuracy under {self.stronger.name} on {self._images} collapsed from "
            f"{percent(best)} (epoch {then.epoch}) to {percent(current)} (epoch {now.epoch}) while "
            f"that under the training attack rose from {percent(then.training)} to "
            f"{percent(now.training)}"
        )

    def _never(self, readings: Sequence[Reading]) -> str | None:
        latest = readings[-self.patience :]
        if len(latest) < self.patience or not all(self._is_far_below(each) for each in latest):
            return None
        now = latest[-1]
        return (
            f"accuracy under {self.stronger.name} on {self._images} is "
            f"{percent(self._under(now) or 0.0)} where the training attack leaves "
            f"{percent(now.training or 0.0)}, in {epochs(latest)}"
        )

    def _is_far_below(self, reading: Reading) -> bool:
        current, training = self._under(reading), reading.training
        if current is None or training is None or training < self.learnt:
            return False
        natural = reading.natural if self.held_out else 1.0
        if natural is None or natural < 0.8 * training:
            return False
        most = (0.2 if self.held_out else 0.5) * training
        few = min(self.stronger.images, reading.images)
        return current < most and training - current > 3 * noise(training, current, few)

    def _under(self, reading: Reading) -> float | None:
        return reading.held_out if self.held_out else reading.probe

    @property
    def _images(self) -> str:
        kind = "held-out" if self.held_out else "training"
        return f"{self.stronger.images} {kind} images"


@dataclass(frozen=True, kw_only=True)
class RobustOverfitting:
    """Robust accuracy falls on held-out images while it rises on training images.

    Usual in multi-step training after the first drop of the learning rate (Rice, Wong and Kolter
    2020, "Overfitting in adversarially robust deep learning": from 53 % to 45 % on CIFAR-10).
    Means over ``window`` epochs are compared, so that one bad epoch says nothing: speaks where the
    latest lies below the best earlier one (none of its epochs in common) by more than ``fall`` and
    by more than two standard errors of a difference on so many images, while that of training is
    higher by more than ``rise``. Goes by the averaged weights where there are any.
    """

    validation: Measured
    selects: bool
    window: int = 5
    fall: float = 0.02
    rise: float = 0.01
    name: ClassVar[str] = "robust-overfitting"
    implied_by: ClassVar[frozenset[str]] = frozenset({CATASTROPHIC, IDLE})

    def __call__(self, readings: Sequence[Reading]) -> str | None:
        values = [each.selecting for each in readings]
        training = [each.training for each in readings]
        if len(readings) < 2 * self.window or not readings[-1].attacked:
            return None
        now = self._mean(values, len(values))
        before = [
            (mean, end)
            for end in range(self.window, len(values) - self.window + 1)
            if (mean := self._mean(values, end)) is not None
        ]
        if now is None or not before:
            return None
        best, end = max(before)
        rose_from, rose_to = self._mean(training, end), self._mean(training, len(training))
        if rose_from is None or rose_to is None:
            return None
        least = max(self.fall, 2 * noise(best, now, self.validation.images))
        if best - now <= least or rose_to - rose_from <= self.rise:
            return None
        then, latest = readings[end - self.window : end], readings[-self.window :]
        return (
            f"robust overfitting: accuracy under {self.validation.name} on "
            f"{self.validation.images} held-out images fell from {percent(best)} ({epochs(then)}) "
            f"to {percent(now)} ({epochs(latest)}) while that of training rose from "
            f"{percent(rose_from)} to {percent(rose_to)}: {self._cure(then)}"
        )

    def _mean(self, values: Sequence[float | None], end: int) -> float | None:
        """Over the ``window`` epochs before position ``end``; None if one is unknown."""
        known = [value for value in values[end - self.window : end] if value is not None]
        return sum(known) / self.window if len(known) == self.window else None

    def _cure(self, then: Sequence[Reading]) -> str:
        if self.selects:
            kept = "the selected weights are of a better epoch, so that more epochs gain nothing"
        else:
            kept = f"select the epoch by held-out images, or stop near epoch {then[-1].epoch}"
        return f"{kept}; augmentation, averaged weights or more weight decay make up for it"


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


@dataclass(frozen=True, kw_only=True)
class SkippedSteps:
    """Speaks after the first epoch in which steps were skipped."""

    name: ClassVar[str] = "skipped-steps"
    implied_by: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, readings: Sequence[Reading]) -> str | None:
        now = readings[-1]
        return f"{_skipped(now)}: if there are more, {_CURE}" if now.skipped else None


def _skipped(reading: Reading) -> str:
    return (
        f"{reading.skipped} of {reading.taken + reading.skipped} steps were skipped, as their loss "
        "or gradient was NaN or infinite"
    )


@dataclass(frozen=True, kw_only=True)
class SmallValidation:
    """The best epochs differ by less than the set can show, and it can show little.

    Selecting is there to find falls as robust overfitting makes them, of some 8 points (Rice et al.
    2020), so two standard errors of a difference above ``coarse`` are too much (fewer than about
    200 images). Speaks where, with such a set, the ``compared`` best epochs so far differ by less
    than those two standard errors. Between good epochs of a large set a choice by chance is no
    harm, and nothing is said.
    """

    validation: Measured
    coarse: float = 0.1
    compared: int = 3
    name: ClassVar[str] = "small-validation"
    implied_by: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, readings: Sequence[Reading]) -> str | None:
        values = [each.selecting for each in readings if each.selecting is not None]
        top = sorted(values, reverse=True)[: self.compared]
        if len(top) < self.compared:
            return None
        shown = 2 * noise(top[0], top[-1], self.validation.images)
        if shown <= self.coarse or top[0] - top[-1] >= shown:
            return None
        return (
            f"the validation set is too small for the selection it makes: {self.validation.images} "
            f"held-out images show differences from about {100 * shown:.0f} points on, but the "
            f"best {self.compared} epochs so far ({', '.join(map(percent, top))} under "
            f"{self.validation.name}) differ by {100 * (top[0] - top[-1]):.1f}: hold out more "
            "images (validation), or take the last epoch"
        )


@dataclass(frozen=True, kw_only=True)
class CollapsedWeights:
    """The loss rests on a few images.

    Speaks where, ``patience`` epochs in a row, terms that hold more than half of the loss have an
    effective sample size (sum w)^2 / sum w^2 (Kish 1965) below ``least`` of the images. Gradients
    are then those of a batch that much smaller, of images that are often mislabelled or beyond the
    model, while nobody looks at the others: reweighted models that are strong under PGD and weak
    under other attacks arise so (Hitaj et al. 2021 on GAIRAT). SAT has 1.
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
        thin = [term for term, load in reading.loads.items() if load.effective < self.least]
        total = sum(load.share for load in reading.loads.values())
        held = sum(reading.loads[term].share for term in thin)
        if total <= 0 or held <= total / 2:
            return []
        return sorted(thin, key=lambda term: -reading.loads[term].share)


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


@dataclass(frozen=True, kw_only=True)
class NothingLearnt:
    """Clean accuracy on training images that one answer for all of them would reach.

    For ``patience`` epochs it is at most two standard errors above ``largest_class``, the share of
    the most frequent class among the ``images`` images that it is measured on.
    """

    largest_class: float
    images: int
    patience: int = 3
    name: ClassVar[str] = "nothing-learnt"
    implied_by: ClassVar[frozenset[str]] = frozenset({"image-scale"})

    def __call__(self, readings: Sequence[Reading]) -> str | None:
        last = readings[-self.patience :]
        clean = [each.clean for each in last if each.clean is not None]
        share = self.largest_class
        chance = share + 2 * math.sqrt(share * (1 - share) / self.images)
        if len(clean) < self.patience or max(clean) > chance:
            return None
        return (
            f"nothing is learnt: in {epochs(last)} at most {percent(max(clean))} of "
            f"{self.images} clean training images are classified correctly, and the same answer "
            f"for every image would reach {percent(share)}: lower the learning rate (0.01), or "
            "raise it where it is far below that; then look at the labels and at epsilon"
        )
