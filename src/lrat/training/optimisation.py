"""How the weights are updated: stochastic gradient descent under a schedule in fractions.

Also here: which parameters weight decay pulls towards zero, and an exponential moving average of
the weights beside the model itself.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lrat.checks import ARGUMENTS, FLAG, check_fields, checked, one_of
from lrat.errors import CheckpointError, ModelError, SettingError
from lrat.modes import is_running_statistic
from lrat.text import as_call, in_one_line, shown
from lrat.training.precision import Precision
from lrat.training.schedules import SCHEDULE, Piecewise, Schedule, paper_drops

Decay = Literal["all", "weights"]
NonFinite = Literal["stop", "skip"]
_QUIET = ("schedule", "decay", "ema", "ema_warm_up", "precision", "non_finite")

_NORMALISATION = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)

_LOW = (torch.float16, torch.bfloat16)


def _refuse(condition: bool, name: str, value: object, cure: str) -> None:
    if condition:
        raise SettingError(f"Optimisation({name}={value!r}): {cure}")


class WeightAverage:
    """average <- d * average + (1 - d) * weights after each step (Polyak & Juditsky 1992; as used
    in adversarial training by Gowal et al. 2020 and Rebuffi et al. 2021).

    Averaged are all floating parameters and BatchNorm's running mean and variance (any buffer of
    that name): statistics of the newest weights do not fit averaged ones. Every other buffer
    (counters, constants, masks, other float buffers) is no weight: under ``applied`` it is the
    model's own, the newest. Averages of float16 and bfloat16 weights are kept in float32.

    ``decay`` is d; with ``warm_up`` it is min(decay, (1 + n) / (10 + n)) after n earlier updates,
    so that the untrained weights are soon forgotten. It starts as a copy of the weights. Nothing
    here waits for the device. Raises ``SettingError``.
    """

    @checked(decay=ARGUMENTS["ema"], warm_up=FLAG)
    def __init__(self, model: nn.Module, *, decay: float, warm_up: bool = True) -> None:
        self.decay = decay
        self.warm_up = warm_up
        self.updates = 0
        self._values = {name: _kept(value) for name, value in _averaged(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's weights; to be called after each step that was taken."""
        decay = self.decay
        if self.warm_up:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        current = _averaged(model)
        values = list(self._values.values())
        newest = [current[name].to(value.dtype) for name, value in self._values.items()]
        if values:
            torch._foreach_lerp_(values, newest, 1 - decay)
        self.updates += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Inside, ``model`` has the averaged weights; its former ones return bit for bit.

        The values are copied in place, so that an optimiser, a view or a wrapper that holds the
        model's tensors sees the same ones. Changes of weights and buffers inside are lost.
        """
        current = [*model.parameters(), *model.buffers()]
        kept = [value.detach().clone() for value in current]
        try:
            with torch.no_grad():
                for name, value in _averaged(model).items():
                    value.copy_(self._values[name])
            yield
        finally:
            with torch.no_grad():
                for value, before in zip(current, kept, strict=True):
                    value.copy_(before)

    def state_dict(self) -> dict[str, Any]:
        """``updates`` and ``values`` by name; the living tensors, to be written at once."""
        return {"updates": self.updates, "values": dict(self._values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved average. Raises ``CheckpointError`` if it is of another model."""
        values = state["values"]
        ours = {name: value.shape for name, value in self._values.items()}
        theirs = {name: value.shape for name, value in values.items()}
        wrong = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
        if wrong:
            raise CheckpointError(
                f"the checkpoint's weight average does not fit this model at {wrong[0]!r}: train "
                "the same architecture, or choose another folder"
            )
        for name, value in self._values.items():
            value.copy_(values[name])
        self.updates = state["updates"]


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
        """The moving average of this model's weights; None without ``ema``."""
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


def split_by_decay(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trainable parameters that decay, and those that do not; each in the model's order.

    Without decay: the parameters of normalisation layers, everything called ``bias``, and every
    vector or scalar, which in other people's layers is a gain or a shift. Decay there changes no
    function class, but pulls features towards zero (He et al. 2019, section 3.1: "no bias decay").
    """
    apart = {
        id(value)
        for module in model.modules()
        if isinstance(module, _NORMALISATION)
        for value in module.parameters(recurse=False)
    }
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, value in model.named_parameters():
        if value.requires_grad:
            bare = value.ndim <= 1 or name.rpartition(".")[2] == "bias" or id(value) in apart
            (others if bare else decaying).append(value)
    return decaying, others


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that are averaged by name, tied ones once; the model's own memory."""
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors |= {name: value for name, value in model.named_buffers() if is_running_statistic(name)}
    return {name: value.detach() for name, value in tensors.items() if value.is_floating_point()}


def _kept(value: Tensor) -> Tensor:
    """A copy in at least float32."""
    return value.to(torch.float32) if value.dtype in _LOW else value.clone()
