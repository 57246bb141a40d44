"""Attacks around other attacks: those that see scaled logits, and those made on another model."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias, final

from torch import Tensor, nn

from lrat.attacks.adapters import AttackLike, as_attack
from lrat.attacks.base import Trace, Variant, costs, whole
from lrat.checks import MODULE, check_fields
from lrat.data.inputs import entering
from lrat.hardware import device_of
from lrat.hooks import PassCounter
from lrat.modes import evaluating
from lrat.outputs import logits_of
from lrat.randomness import NoiseLike
from lrat.types import Images, Labels, Logits

Clean: TypeAlias = Logits | None
"""The logits [B K] of the clean images, if the caller has them."""


class Wrapped(ABC):
    """An attack around another one, which provides and needs what that ``attack`` does.

    Concrete attacks write ``run``; ``__call__`` is final.
    """

    attack: AttackLike

    @property
    def provides(self) -> frozenset[str]:
        return as_attack(self.attack).provides

    @property
    def needs_clean(self) -> bool:
        return as_attack(self.attack).needs_clean

    @abstractmethod
    def run(
        self, model: nn.Module, images: Images, labels: Labels, noise: NoiseLike, clean: Clean
    ) -> Variant:
        """The attack itself, called with the arguments as they were passed."""

    @final
    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels,
        *,
        noise: NoiseLike = None,
        clean_logits: Logits | None = None,
    ) -> Variant:
        """Attack ``images`` [B C H W] in [0, 1] with ``labels`` [B], as every ``Attack``."""
        return self.run(model, images, labels, noise, clean_logits)


class _Scaled(nn.Module):
    """The logits of ``model``, in float32, times a constant."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model = model
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.model(images), len(images)).float() * self.scale


@dataclass(frozen=True, kw_only=True)
class LogitScaled(Wrapped):
    """An attack that sees the model's logits times ``scale``.

    The class of an image does not change, but the gradient of the cross-entropy does: it vanishes
    where the softmax is saturated, which a small scale undoes, and is dominated by rounding where
    the logits are close together, which a large one undoes. A model that is fooled only at another
    scale than 1 hides its gradients (Hitaj et al. 2021 on GAIRAT).

    Raises ``SettingError`` for a scale that is not positive and finite.
    """

    attack: AttackLike
    scale: float

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "attack", as_attack(self.attack))

    def run(
        self, model: nn.Module, images: Images, labels: Labels, noise: NoiseLike, clean: Clean
    ) -> Variant:
        clean = None if clean is None else clean * self.scale
        with evaluating(model):
            scaled = _Scaled(model, self.scale).eval()
            attack = as_attack(self.attack)
            return attack(scaled, images, labels, noise=noise, clean_logits=clean)


@dataclass(frozen=True, kw_only=True)
class Transfer(Wrapped):
    """An attack made on ``source``, a second model, and shown to the model under evaluation.

    ``name`` says which model that is: it is part of an evaluation's identity. The images are made
    where the source is. The passes in the trace are those of the source. Where the images come from
    another training run with the same data this is the black-box test that hidden gradients cannot
    pass (Athalye et al. 2018).
    """

    attack: AttackLike
    source: nn.Module = field(repr=False)
    name: str
    provides: ClassVar[frozenset[str]] = frozenset()
    needs_clean: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self, source=MODULE)
        object.__setattr__(self, "attack", as_attack(self.attack))

    def run(
        self, model: nn.Module, images: Images, labels: Labels, noise: NoiseLike, clean: Clean
    ) -> Variant:
        """``model`` is not called."""
        images, labels, _ = entering(images, labels)
        place = device_of(self.source) or images.device
        with PassCounter(self.source) as counted:
            attack = as_attack(self.attack)
            found = attack(self.source, images.to(place), labels.to(place), noise=noise)
        told = costs(found.trace, counted, len(labels))
        # The margin and steps are the source's: they say nothing about the model in question.
        trace = Trace(
            forwards=whole(told["forwards"], labels),
            backwards=whole(told["backwards"], labels),
        )
        return Variant(images=found.images.to(images.device), trace=trace)
