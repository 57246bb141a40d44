"""Learning-rate schedules: the full rate and the position in training -> the rate of a step.

A schedule knows neither steps nor optimiser. The position is the number of epochs done, a float
that the loop sets before every step, so that the same schedule holds for any batch size, any number
of processes and a run that is continued in the middle of an epoch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from lrat.checks import POSITIVE, SHARE, check_fields, instance, number
from lrat.errors import SettingError, UnknownNameError

Shape = Literal["cosine", "linear"]
"""How a rate moves between two values."""
_ROUNDING = 1e-9


@runtime_checkable
class Schedule(Protocol):
    """``(lr, position, length) -> rate`` of a step, finite and >= 0; ``lr`` is the full rate.

    ``position``: epochs done when the step begins, from 0 up to ``length`` (the epochs of the
    whole schedule); 2.5 is the middle of the third epoch.
    """

    def __call__(self, lr: float, position: float, length: int) -> float: ...


@dataclass(frozen=True)
class Piecewise:
    """Steps down at epochs: the paper's schedule (section 5.1).

    ``drops``: fraction -> factor. The rate is multiplied by the factor from the epoch numbered
    ceil(fraction * length) on, epochs counted **from 1**: with 100 epochs and .6, epoch 60 is the
    first at the lower rate. The first epoch always has the full rate, however short the schedule.
    Raises ``SettingError``.
    """

    drops: Mapping[float, float]

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, lr: float, position: float, length: int) -> float:
        rate = lr
        for fraction, factor in self.drops.items():
            first = math.ceil(fraction * length - _ROUNDING)
            if int(position) + 1 >= max(first, 2):
                rate *= factor
        return rate


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from 1 down to ``final`` (Loshchilov & Hutter 2017, Eq. 5, without restarts).

    ``final``: the fraction of the learning rate that is left at the end. Raises ``SettingError``.
    """

    final: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, lr: float, position: float, length: int) -> float:
        return lr * _between(1.0, self.final, position / length, "cosine")


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """Up to the learning rate, then far below where it began (Smith & Topin 2017).

    The names mean what they mean in PyTorch's ``OneCycleLR``: the rate rises from lr /
    ``div_factor`` to lr during the fraction ``peak`` of the schedule (``pct_start`` there) and
    falls to lr / ``div_factor`` / ``final_div_factor`` at its end, along ``shape``. Momentum stays
    as it is. Raises ``SettingError``.
    """

    peak: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    shape: Shape = "cosine"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.shape not in get_args(Shape):
            raise UnknownNameError("shape of a one-cycle schedule", self.shape, get_args(Shape))

    def __call__(self, lr: float, position: float, length: int) -> float:
        first = 1 / self.div_factor
        done = position / length
        if done <= self.peak:
            return lr * _between(first, 1.0, done / self.peak, self.shape)
        rest = (done - self.peak) / (1 - self.peak)
        return lr * _between(1.0, first / self.final_div_factor, rest, self.shape)


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """A linear rise to the full rate, multiplied with any other schedule (Goyal et al. 2017).

    ``epochs`` (a fraction of one is allowed) or ``fraction`` of the schedule: how long it lasts,
    one of the two. ``start``: the factor of the first step. The schedule inside keeps its own
    time: its drops stay at their epochs. Raises ``SettingError``.
    """

    schedule: Schedule
    epochs: float | None = None
    fraction: float | None = None
    start: float = 0.01

    def __post_init__(self) -> None:
        fraction = number(above=0, most=1, example=0.05)
        check_fields(self, schedule=SCHEDULE, epochs=POSITIVE, fraction=fraction, start=SHARE)
        if (self.epochs is None) == (self.fraction is None):
            raise SettingError(
                f"WarmUp(epochs={self.epochs!r}, fraction={self.fraction!r}): say how long it "
                "lasts in one of the two"
            )

    def __call__(self, lr: float, position: float, length: int) -> float:
        rate = self.schedule(lr, position, length)
        lasts = self.epochs if self.epochs is not None else (self.fraction or 0) * length
        return rate * _between(self.start, 1.0, position / lasts, "linear")


NAMES = ("piecewise", "cosine", "one-cycle")
"""The schedules that configurations know; each takes a warm-up."""
_SETTINGS = {
    "piecewise": frozenset[str](),
    "cosine": frozenset({"final"}),
    "one-cycle": frozenset({"peak", "div_factor", "final_div_factor", "shape"}),
}
_WARM_UP = {
    "warm_up_epochs": "epochs",
    "warm_up_fraction": "fraction",
    "warm_up_start": "start",
}


def schedule(
    name: str, settings: Mapping[str, Any], drops: Mapping[float, float] | None
) -> Schedule:
    """A schedule by its name, with those of its settings that were given.

    ``settings``: the fields of the schedule's class, and ``warm_up_epochs`` or
    ``warm_up_fraction`` with ``warm_up_start`` for a ``WarmUp`` around it. ``drops``: what
    ``piecewise`` uses; None where they were not given. Raises ``SettingError`` in one line for an
    unknown name, for a setting that is unknown or does nothing in that schedule, and for drops
    beside another schedule.
    """
    if name not in NAMES:
        raise UnknownNameError("schedule", name, NAMES)
    used = _SETTINGS[name] | _WARM_UP.keys()
    for key, value in settings.items():
        if not any(key in names for names in (*_SETTINGS.values(), _WARM_UP)):
            known = sorted(frozenset().union(*_SETTINGS.values(), _WARM_UP))
            raise UnknownNameError("setting of a schedule", key, known)
        if key not in used:
            raise SettingError(
                f"schedule.{key} does nothing in {name!r}, which uses {', '.join(sorted(used))}: "
                "leave it out or choose another schedule"
            )
        if key != "shape":
            number(example=0.5)(f"schedule.{key}", value)
    if drops is not None and name != "piecewise":
        raise SettingError(
            f"drops={dict(drops)} do nothing in the schedule {name!r}: leave them out, or choose "
            "'piecewise'"
        )
    given = {key: value for key, value in settings.items() if key in _SETTINGS[name]}
    bare: Schedule
    if name == "piecewise":
        bare = Piecewise(drops if drops is not None else paper_drops())
    else:
        bare = Cosine(**given) if name == "cosine" else OneCycle(**given)
    warm_up = {_WARM_UP[key]: value for key, value in settings.items() if key in _WARM_UP}
    if not warm_up:
        return bare
    if warm_up.keys() == {"start"}:
        raise SettingError(
            "schedule.warm_up_start does nothing without warm_up_epochs or warm_up_fraction: say "
            "how long the warm-up lasts"
        )
    return WarmUp(schedule=bare, **warm_up)


def paper_drops() -> dict[float, float]:
    """A tenth from 60 % of training on, a hundredth from 90 % (section 5.1)."""
    return {0.6: 0.1, 0.9: 0.1}


def _between(first: float, last: float, done: float, shape: Shape) -> float:
    """From ``first`` (done 0 or before) to ``last`` (done 1 or after)."""
    done = min(max(done, 0.0), 1.0)
    if shape == "linear":
        return first + (last - first) * done
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


SCHEDULE = instance(Schedule, need="a function (lr, position, length) -> rate", example="Cosine()")
"""The rule of a ``schedule``, for ``lrat.checks``."""
