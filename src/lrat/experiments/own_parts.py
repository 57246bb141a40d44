"""Losses and attacks of users, ``FILE.py:NAME``: known by their file's content as well as by name.

An evaluation is continued only with the attacks that it was begun with. The name of a function
does not change when its code does, so what these print, which is their identity, has a digest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

from torch import Tensor, nn

from lrat.attacks import Attack, Variant, as_attack
from lrat.config.catalogue import names_users_code
from lrat.config.user_code import file_digest, in_users_code, object_from_file
from lrat.errors import SettingError, UnknownNameError
from lrat.losses import (
    Loss,
    Prepared,
    as_loss,
    cross_entropy,
    cw,
    difference,
    dlr,
    targeted_dlr,
)
from lrat.randomness import NoiseLike
from lrat.types import Images, Labels, Logits

LOSSES: Mapping[str, Loss] = {
    "cross_entropy": cross_entropy,
    "cw": cw,
    "dlr": dlr,
    "targeted_dlr": targeted_dlr,
    "difference": difference,
}
_DIGITS = 12


@dataclass(frozen=True)
class OwnLoss:
    """A user's loss, printed as its place and the digest of its file."""

    loss: Loss = field(repr=False)
    place: str
    code: str

    @property
    def needs_clean(self) -> bool:
        return self.loss.needs_clean

    @property
    def targeted(self) -> bool:
        return self.loss.targeted

    def prepare(
        self, labels: Labels, clean_logits: Logits | None = None, rank: Labels | None = None
    ) -> Prepared:
        with in_users_code(f"loss {self.place!r}"):
            made = self.loss.prepare(labels, clean_logits, rank)
        return Prepared(_watched(made.function, self.place), made.context)


@cache
def _watched(function: Callable[..., Tensor], place: str) -> Callable[..., Tensor]:
    """A user's function whose errors are one line; the same one for the same function."""

    def losses_of(logits: Tensor, *context: Tensor) -> Tensor:
        with in_users_code(f"loss {place!r}"):
            losses = function(logits, *context)
        if not isinstance(losses, Tensor):
            raise SettingError(
                f"loss {place!r} returned {type(losses).__name__}: return a tensor, one value per "
                "image"
            )
        if logits.requires_grad and not losses.requires_grad:
            raise SettingError(
                f"loss {place!r} does not depend on the logits differentiably (a detach, argmax or "
                "comparison inside?): gradient attacks cannot ascend it"
            )
        return losses

    losses_of.__name__ = place
    return losses_of


@dataclass(frozen=True)
class OwnAttack:
    """A user's attack, printed as its place and the digest of its file."""

    attack: Attack = field(repr=False)
    place: str
    code: str

    @property
    def provides(self) -> frozenset[str]:
        return self.attack.provides

    @property
    def needs_clean(self) -> bool:
        return self.attack.needs_clean

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
        with in_users_code(f"attack {self.place!r}"):
            return self.attack(model, images, labels, noise=noise, clean_logits=clean_logits)


def loss_named(name: str) -> Loss:
    """A loss of ours by name, or a user's ``FILE.py:NAME``."""
    if names_users_code(name):
        found = as_loss(object_from_file(name, "loss"))
        return OwnLoss(found, name, file_digest(name)[:_DIGITS])
    if name not in LOSSES:
        raise UnknownNameError("loss", name, [*LOSSES, "FILE.py:NAME"])
    return LOSSES[name]


def own_attack(place: str) -> Attack:
    """A user's ``FILE.py:NAME``: an ``Attack``, or ``(model, images, labels) -> images``."""
    found = as_attack(object_from_file(place, "attack"))
    return OwnAttack(found, place, file_digest(place)[:_DIGITS])
