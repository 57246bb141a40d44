"""How the weights are updated: stochastic gradient descent under a schedule in fractions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import nn

from lrat.checks import check_fields, one_of
from lrat.errors import ModelError, SettingError
from lrat.printing import as_call
from lrat.text import in_one_line, shown
from lrat.training.averaging import WeightAverage
from lrat.training.decay import split_by_decay
from lrat.training.precision import Precision
from lrat.training.schedules import SCHEDULE, Piecewise, Schedule, paper_drops

Decay = Literal["all", "weights"]
NonFinite = Literal["stop", "skip"]
_QUIET = ("schedule", "decay", "ema", "ema_warm_up", "precision", "non_finite")


def _refuse(condition: bool, name: str, value: object, cure: str) -> None:
    if condition:
        raise SettingError(f"Optimisation({name}={value!r}): {cure}")


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """SGD with momentum and a schedule; the defaults are the paper's (section 5.1).

    ``epochs`` are trained; ``schedule_epochs`` (None: the same) is the length that all fractions
    refer to, so that a schedule of 100 epochs stopped after 66 keeps its drops. ``schedule``: how
    the rate moves from ``lr``; None is ``Piecewise(drops)``: fraction -> factor.

    ``weight_decay`` acts on ``decay``: ``"all"`` parameters, or ``"weights"`` alone, without
    normalisation layers and biases (see ``split_by_decay``). ``clip``: largest norm of the whole
    step's gradient, None for no clipping. ``accumulate``: batches of the source that make one step.

    ``ema``: decay of an exponential moving average of the weights, None for none;
    ``ema_warm_up``: a shorter memory at first (see ``WeightAverage``). ``precision``: what the
    network computes in during the update (see ``lrat.training.precision``). ``non_finite``: what a
    step does whose loss or gradient is NaN or infinite: ``"stop"`` the run, or ``"skip"`` the
    step. ``seed``: the root of all noise. Raises ``SettingError``.
    """

    epochs: int
    schedule_epochs: int | None = None
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 2e-4
    drops: Mapping[float, float] = field(default_factory=paper_drops)
    clip: float | None = None
    accumulate: int = 1
    seed: int = 0
    schedule: Schedule | None = None
    decay: Decay = "all"
    ema: float | None = None
    ema_warm_up: bool = True
    precision: Precision = "float32"
    non_finite: NonFinite = "stop"

    def __post_init__(self) -> None:
        words = {"decay": Decay, "precision": Precision, "non_finite": NonFinite}
        choices = {name: one_of(get_args(known)) for name, known in words.items()}
        check_fields(self, schedule=SCHEDULE, **choices)
        _refuse(
            self.schedule_epochs is not None and self.schedule_epochs < self.epochs,
            "schedule_epochs",
            self.schedule_epochs,
            f"the schedule must be at least as long as the {self.epochs} epochs trained",
        )
        _refuse(self.nesterov and self.momentum == 0, "nesterov", True, "needs momentum > 0")
        _refuse(
            self.schedule is not None and self.drops != paper_drops(),
            "drops",
            dict(self.drops),
            f"do nothing beside schedule={self.schedule!r}: leave one of the two out",
        )

    @property
    def schedule_length(self) -> int:
        """The epochs that fractions refer to."""
        return self.epochs if self.schedule_epochs is None else self.schedule_epochs

    def progress(self, epoch: int) -> float:
        """Fraction of the schedule before this epoch, counted from 0."""
        return epoch / self.schedule_length

    def learning_rate(self, position: float) -> float:
        """The rate of a step before which ``position`` epochs are done, a float from 0."""
        chosen = Piecewise(self.drops) if self.schedule is None else self.schedule
        try:
            rate = float(chosen(self.lr, position, self.schedule_length))
        except Exception as error:
            raise SettingError(
                f"schedule={shown(chosen)} fails at epoch {position:g}: {in_one_line(error)}; it "
                "is called with (lr, position, length) and must return a number"
            ) from error
        sound = math.isfinite(rate) and rate >= 0
        _refuse(not sound, "schedule", chosen, f"gave {rate} at epoch {position:g}: must be >= 0")
        return rate

    def average(self, model: nn.Module) -> WeightAverage | None:
        """The moving average of this model's weights, where one is wanted."""
        if self.ema is None:
            return None
        return WeightAverage(model, decay=self.ema, warm_up=self.ema_warm_up)

    def __repr__(self) -> str:
        return as_call(self, quiet=_QUIET)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD over the parameters that want a gradient; ``ModelError`` if there is none."""
        decaying, others = split_by_decay(model)
        if self.decay == "all":
            parameters = [value for value in model.parameters() if value.requires_grad]
            groups: list[dict[str, Any]] = [{"params": parameters}]
        else:
            groups = [{"params": decaying}, {"params": others, "weight_decay": 0.0}]
            groups = [group for group in groups if group["params"]]
        if not decaying and not others:
            raise ModelError(
                "no parameter of the model requires a gradient, so there is nothing to train: "
                "call requires_grad_() on those that should learn"
            )
        return torch.optim.SGD(
            groups,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )
