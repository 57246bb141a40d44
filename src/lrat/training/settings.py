"""How the weights are updated: stochastic gradient descent under a schedule in fractions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from lrat.errors import ModelError, SettingError

_ROUNDING = 1e-9


def _paper_drops() -> dict[float, float]:
    return {0.6: 0.1, 0.9: 0.1}


def _refuse(condition: bool, name: str, value: object, cure: str) -> None:
    if condition:
        raise SettingError(f"Optimisation({name}={value!r}): {cure}")


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """SGD with momentum and a step schedule; the defaults are the paper's (section 5.1).

    ``epochs`` are trained; ``schedule_epochs`` (None: the same) is the length that all fractions
    refer to, so that a schedule of 100 epochs stopped after 66 keeps its drops.
    ``drops``: fraction -> factor. The learning rate is multiplied by the factor from the epoch
    numbered ceil(fraction * schedule_epochs) on, epochs counted **from 1**: with 100 epochs and
    .6, epoch 60 is the first at the lower rate (index 59 counted from 0). The first epoch always
    has the full rate, however short the schedule.
    ``clip``: largest gradient norm, None for no clipping. ``accumulate``: batches of the source
    that make one step. ``non_finite``: what a step does whose loss or gradient is NaN or
    infinite: ``"stop"`` the run, or ``"skip"`` the step. ``seed``: the root of all noise. Raises
    ``SettingError``.
    """

    epochs: int
    schedule_epochs: int | None = None
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 2e-4
    drops: Mapping[float, float] = field(default_factory=_paper_drops)
    clip: float | None = None
    accumulate: int = 1
    non_finite: str = "stop"
    seed: int = 0

    def __post_init__(self) -> None:
        _refuse(self.epochs < 1, "epochs", self.epochs, "train for at least 1 epoch")
        _refuse(
            self.schedule_epochs is not None and self.schedule_epochs < self.epochs,
            "schedule_epochs",
            self.schedule_epochs,
            f"the schedule must be at least as long as the {self.epochs} epochs trained",
        )
        _refuse(not _positive(self.lr), "lr", self.lr, "the learning rate must be > 0")
        _refuse(not 0 <= self.momentum < 1, "momentum", self.momentum, "must lie in [0, 1)")
        _refuse(self.nesterov and self.momentum == 0, "nesterov", True, "needs momentum > 0")
        _refuse(
            not (math.isfinite(self.weight_decay) and self.weight_decay >= 0),
            "weight_decay",
            self.weight_decay,
            "must be a number >= 0",
        )
        for fraction, factor in self.drops.items():
            _refuse(
                not (0 < fraction <= 1 and _positive(factor)),
                "drops",
                {fraction: factor},
                "fractions lie in (0, 1], factors are > 0, as in {0.6: 0.1, 0.9: 0.1}",
            )
        _refuse(
            self.clip is not None and not _positive(self.clip),
            "clip",
            self.clip,
            "the largest gradient norm must be > 0, or None for no clipping",
        )
        _refuse(self.accumulate < 1, "accumulate", self.accumulate, "must be at least 1 batch")
        _refuse(
            self.non_finite not in {"stop", "skip"},
            "non_finite",
            self.non_finite,
            "choose 'stop' or 'skip'",
        )
        object.__setattr__(self, "drops", dict(self.drops))

    @property
    def schedule_length(self) -> int:
        """The epochs that fractions refer to."""
        return self.epochs if self.schedule_epochs is None else self.schedule_epochs

    def progress(self, epoch: int) -> float:
        """Fraction of the schedule before this epoch, counted from 0."""
        return epoch / self.schedule_length

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch counted from 0."""
        rate = self.lr
        for fraction, factor in self.drops.items():
            first = math.ceil(fraction * self.schedule_length - _ROUNDING)
            if epoch + 1 >= max(first, 2):
                rate *= factor
        return rate

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD over the parameters that want a gradient; ``ModelError`` if there is none."""
        parameters = [value for value in model.parameters() if value.requires_grad]
        if not parameters:
            raise ModelError(
                "no parameter of the model requires a gradient, so there is nothing to train: "
                "call requires_grad_() on those that should learn"
            )
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0
