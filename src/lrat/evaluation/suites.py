"""Which attacks an evaluation runs. Natural accuracy is always measured and is not a member."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrat.attacks.apgd import APGD
from lrat.attacks.base import Attack
from lrat.attacks.foreign import as_attack
from lrat.attacks.pgd import PGD
from lrat.attacks.presets import CW
from lrat.errors import SettingError
from lrat.losses import targeted_dlr
from lrat.threat import Ball, Region

NATURAL = "natural"
"""The name under which clean images are recorded."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_MOST_TARGETS = 9
_RETIRE = 10
"""Auto-PGD runs of 100 iterates look this often whose images are fooled."""
_SHORT_DECIMAL = 6


@dataclass(frozen=True, kw_only=True)
class Member:
    """An attack of a suite; ``name`` labels its rows, its files and its noise."""

    name: str
    attack: Attack

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SettingError(
                f"attack name {self.name!r}: use letters, digits and . _ + - (it names files)"
            )
        if self.name == NATURAL:
            raise SettingError(
                f"attack name {NATURAL!r} is taken by the clean images: choose another"
            )

    @property
    def description(self) -> str:
        """The attack's settings, the same in every process."""
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(self.attack))


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Attacks that run independently of each other inside one ``threat``.

    Every result is checked against ``threat``, whatever region the attack itself believes in.
    """

    name: str
    threat: Region
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        names = self.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SettingError(f"suite {self.name!r} holds {', '.join(twice)} twice: rename one")

    @property
    def names(self) -> tuple[str, ...]:
        """``natural``, then the members in order."""
        return (NATURAL, *(member.name for member in self.members))


def quick(threat: Ball) -> Suite:
    """PGD-20 and CW-20 of the paper's protocol: step epsilon / 4, uniform start."""
    step_size = threat.epsilon / 4
    members = (
        Member(name="pgd-20", attack=PGD(threat=threat, steps=20, step_size=step_size)),
        Member(name="cw-20", attack=CW(threat=threat, steps=20, step_size=step_size)),
    )
    return Suite(name="quick", threat=threat, members=members)


def tier(threat: Ball, classes: int) -> Suite:
    """``quick``, Auto-PGD on cross-entropy and targeted Auto-PGD on min(9, classes - 1) targets."""
    if classes < 2:
        raise SettingError(f"classes={classes}: a classifier has at least 2")
    targets = min(_MOST_TARGETS, classes - 1)
    members = (
        Member(name="apgd-ce", attack=APGD(threat=threat, retire_every=_RETIRE)),
        Member(
            name="apgd-t",
            attack=APGD(threat=threat, loss=targeted_dlr, targets=targets, retire_every=_RETIRE),
        ),
    )
    return Suite(name="tier", threat=threat, members=(*quick(threat).members, *members))


def custom(threat: Region, attacks: Mapping[str, Any], *, name: str = "custom") -> Suite:
    """A suite of one's own: attacks by name, each an ``Attack`` or ``(model, images, labels) ->
    images``.

    ``custom(threat, {"fgsm": FGSM(threat=threat), "mine": my_attack})``

    A plain callable that draws random numbers does so from a global state seeded per batch, so its
    results (alone) depend on how the images are split into batches.
    """
    # No threat for the adapter: the evaluation checks each result and can name the image.
    members = tuple(Member(name=key, attack=as_attack(attack)) for key, attack in attacks.items())
    return Suite(name=name, threat=threat, members=members)


def describe_threat(threat: Region) -> str:
    """``Linf(epsilon=8/255)``, ``Linf(epsilon=0.2)``: a short decimal, else a fraction of 255."""
    epsilon = getattr(threat, "epsilon", None)
    if not isinstance(epsilon, int | float):
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(threat))
    levels = round(epsilon * 255)
    written = repr(float(epsilon))
    if len(written) > _SHORT_DECIMAL and levels / 255 == epsilon:
        written = f"{levels}/255"
    return f"{type(threat).__name__}(epsilon={written})"
