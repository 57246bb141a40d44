"""Attacks around other attacks: on scaled logits, and on another model (transfer attacks)."""

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
    """An attack around another ``attack``, whose ``provides`` and ``needs_clean`` it has.

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
    """An attack on the model's logits times ``scale``.

    The class of an image does not change, but the gradient of the cross-entropy does: it vanishes
    where the softmax is saturated, for which a small scale is the remedy, and is dominated by
    rounding where the logits are close together, for which a large one is. A model that is fooled
    only at another scale than 1 hides its gradients (Hitaj et al. 2021 on GAIRAT).

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
    """A transfer attack: its images are computed on a second model, ``source``.

    ``name`` is the name of that model, a part of an evaluation's identity. The attack runs on the
    device of the source, and the passes in the trace are the source's. With a source from another
    training run on the same data this is the black-box test that hidden gradients cannot pass
    (Athalye et al. 2018).
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
        """Attack the source; ``model`` is not called."""
        images, labels, _ = entering(images, labels)
        device = device_of(self.source) or images.device
        with PassCounter(self.source) as counter:
            attack = as_attack(self.attack)
            variant = attack(self.source, images.to(device), labels.to(device), noise=noise)
        cost = costs(variant.trace, counter, len(labels))
        # Margin and steps are left out, since they are the source's.
        trace = Trace(
            forwards=whole(cost["forwards"], labels), backwards=whole(cost["backwards"], labels)
        )
        return Variant(images=variant.images.to(images.device), trace=trace)
