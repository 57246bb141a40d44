"""Adapters: functions of users and of other libraries as attacks of lrat."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from lrat.attacks.base import Attack, GradientAttack, Variant
from lrat.attacks.protection import checked_images, protected, users_attack
from lrat.data.inputs import check_module, entering
from lrat.errors import SettingError
from lrat.hardware import differentiable
from lrat.modes import evaluating, outside_autocast, recordable
from lrat.randomness import NoiseLike, as_noise
from lrat.text import shown
from lrat.threat import Linf, Region
from lrat.types import Images, Labels, Logits

AttackLike: TypeAlias = Attack | Callable[[nn.Module, Tensor, Tensor], Tensor]
"""An attack as objectives and suites take it: an ``Attack``, or ``(model, images, labels) ->
images``."""
BOX = Linf(epsilon=1)
"""All of [0, 1], in which training images must lie where no threat is known."""
_CONTRACT = "it is called with (model, images, labels) and must return images"


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """Any callable ``(model, images, labels) -> images`` as an attack.

    The callable gets the model in eval mode, with global random states (Python, numpy, torch)
    seeded from ``noise``; modes, weights, buffers, gradients and random states are restored. With a
    ``threat``, a result outside it raises ``RegionViolationError``; an exception of the callable
    becomes a ``SettingError`` that names it.
    """

    function: Callable[[nn.Module, Tensor, Tensor], Tensor]
    threat: Region | None = None
    provides: ClassVar[frozenset[str]] = frozenset()
    needs_clean: ClassVar[bool] = False

    @property
    def _name(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels,
        *,
        noise: NoiseLike = None,
        clean_logits: Logits | None = None,
    ) -> Variant:
        check_module(model)
        images, labels, _ = entering(images, labels)
        adapted = as_noise(noise, len(images), images.device)
        with (
            torch.inference_mode(False),
            outside_autocast(images.device.type),
            recordable(model),
            evaluating(model),
            users_attack(self._name, model, images, adapted, _CONTRACT),
            differentiable(model),
            torch.enable_grad(),
        ):
            result = self.function(model, images.clone(), labels.clone())
        return Variant(images=checked_images(self._name, result, images, self.threat))


def protected_from(attack: Attack, model: nn.Module) -> AbstractContextManager[None]:
    """``protected`` around a call of ``attack``, if it is a user's ``Attack``."""
    if isinstance(attack, GradientAttack | Foreign):
        return nullcontext()
    return protected(model, type(attack).__name__)


def as_attack(attack: Any, *, threat: Region | None = None) -> Attack:
    """An ``Attack`` unchanged; a callable ``(model, images, labels) -> images`` as one."""
    if isinstance(attack, Attack) and not isinstance(attack, type):
        return attack
    if callable(attack) and not isinstance(attack, type):
        return Foreign(function=attack, threat=threat)
    raise SettingError(
        f"attack={shown(attack)}: pass an Attack or a function (model, images, labels) -> images"
    )
