"""Two ways in which robust accuracy is lost while the numbers of training improve."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lrat.training.guards.readings import Measured, Reading, epochs, noise, percent

CATASTROPHIC = "catastrophic-overfitting"
IDLE = "idle-attack"


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
        found = self._collapsed(readings) or self._never(readings)
        if found is None:
            return None
        return (
            f"catastrophic overfitting: {found}: the model withstands the training attack alone; "
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
