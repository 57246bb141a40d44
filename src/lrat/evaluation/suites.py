"""Suites, the attacks of an evaluation. Natural accuracy is always measured and is no member."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from lrat.attacks.adapters import as_attack
from lrat.attacks.apgd import APGD
from lrat.attacks.base import Attack
from lrat.attacks.cascade import AutoAttack, Cascade, Restarts
from lrat.attacks.fab import FAB
from lrat.attacks.pgd import PGD
from lrat.attacks.presets import CW, MOST_TARGETS, RETIRE, RETIRE_SQUARE
from lrat.attacks.square import Square
from lrat.attacks.wrappers import LogitScaled
from lrat.checks import check_fields, checked, tuple_of
from lrat.errors import SettingError
from lrat.evaluation.outcomes import NATURAL
from lrat.losses import LossLike, as_loss, dlr, targeted_dlr
from lrat.text import shown
from lrat.threat import BALL, REGION, Ball, Region, RegionLike

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,149}")
"""It is a part of file names, which have 255 bytes at most."""
_LONG = 100
LOGIT_SCALES = (0.1, 1.0, 10.0, 100.0)
_SHORT_DECIMAL = 6
_CLASSES_OF_DLR, _CLASSES_OF_TARGETED_DLR = 3, 4


@dataclass(frozen=True, kw_only=True)
class Member:
    """An attack of a suite; ``name`` is that of its rows, its files and its noise.

    ``after``: it attacks the images that this member did not fool; None for all images that are
    right when clean.
    """

    name: str
    attack: Attack
    after: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "attack", as_attack(self.attack))
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise SettingError(
                f"attack name {shown(self.name)}: use letters, digits and . _ + - (it names "
                "files), at most 150"
            )
        if self.name == NATURAL:
            raise SettingError(
                f"attack name {NATURAL!r} is taken by the clean images: choose another"
            )

    @property
    def description(self) -> str:
        """The attack's settings, the same in every process."""
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(self.attack))


_MEMBERS = tuple_of(
    Member, least=1, need="at least one Member", example="(Member(name='pgd', attack=PGD(...)),)"
)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Attacks that run independently of each other inside one ``threat``.

    Every result is checked against ``threat``, which may differ from an attack's region.
    """

    name: str
    threat: RegionLike
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        check_fields(self, threat=REGION, members=_MEMBERS)
        names = [*self.names, *self.cascades]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SettingError(f"suite {self.name!r} holds {', '.join(twice)} twice: rename one")
        for number, step in enumerate(self.steps):
            if step.after is not None and step.after not in self.names[: number + 1]:
                raise SettingError(
                    f"suite {self.name!r}: {step.name} comes after {step.after!r}, which is no "
                    "earlier attack of this suite"
                )

    @cached_property
    def cascades(self) -> dict[str, tuple[str, ...]]:
        """The names of the stages of each cascade: ``autoattack`` has ``autoattack.apgd-ce`` ..."""
        return {
            member.name: tuple(f"{member.name}.{stage}" for stage in member.attack.members)
            for member in self.members
            if isinstance(member.attack, Cascade)
        }

    @cached_property
    def steps(self) -> tuple[Member, ...]:
        """The attacks to run, in order: the members, and for a cascade each of its stages."""
        steps: list[Member] = []
        for member in self.members:
            if not isinstance(member.attack, Cascade):
                steps.append(member)
                continue
            previous = member.after
            stages = zip(self.cascades[member.name], member.attack.attacks.values(), strict=True)
            for name, attack in stages:
                steps.append(Member(name=name, attack=attack, after=previous))
                previous = name
        return tuple(steps)

    @property
    def names(self) -> tuple[str, ...]:
        """``natural``, then the names of the steps, as in the outcomes."""
        return (NATURAL, *(step.name for step in self.steps))

    def with_members(self, *members: Member, name: str | None = None) -> "Suite":
        """This suite and these members too."""
        return replace(self, name=name or self.name, members=(*self.members, *members))


@checked(threat=BALL)
def quick(threat: Ball) -> Suite:
    """PGD-20 and CW-20 of the paper's protocol: step epsilon / 4, uniform start."""
    step_size = threat.epsilon / 4
    members = (
        Member(name="pgd-20", attack=PGD(threat=threat, steps=20, step_size=step_size)),
        Member(name="cw-20", attack=CW(threat=threat, steps=20, step_size=step_size)),
    )
    return Suite(name="quick", threat=threat, members=members)


@checked(threat=BALL)
def tier(threat: Ball, classes: int) -> Suite:
    """``quick``, Auto-PGD on cross-entropy and targeted Auto-PGD on 9 targets.

    A model of fewer than ten ``classes`` has fewer targets, and its evaluation notes it.
    """
    common = partial(APGD, threat=threat, retire_every=RETIRE)
    members = (
        Member(name="apgd-ce", attack=common()),
        Member(name="apgd-t", attack=common(loss=targeted_dlr, targets=MOST_TARGETS)),
    )
    return quick(threat).with_members(*members, name="tier")


@checked(threat=BALL)
def paper(threat: Ball) -> Suite:
    """``quick`` and AutoAttack: the columns of the paper's tables."""
    autoattack = Member(name="autoattack", attack=AutoAttack(threat=threat))
    return quick(threat).with_members(autoattack, name="paper")


@checked(threat=BALL)
def strong(threat: Ball) -> Suite:
    """``paper``, PGD-100 with 10 restarts, and PGD-20 on logits times .1, 1, 10 and 100, under
    which GAIRAT is not robust (Hitaj et al. 2021)."""
    long = PGD(threat=threat, steps=_LONG, step_size=threat.epsilon / 4)
    short = PGD(threat=threat, steps=20, step_size=threat.epsilon / 4)
    return paper(threat).with_members(
        Member(name="pgd-100x10", attack=Restarts(attack=long, count=10)),
        *(
            Member(name=f"pgd-20-scale-{scale:g}", attack=LogitScaled(attack=short, scale=scale))
            for scale in LOGIT_SCALES
        ),
        name="strong",
    )


@checked(threat=BALL)
def adaptive(threat: Ball, loss: LossLike) -> tuple[Member, ...]:
    """The attacks on a user's loss, which an adaptive attack adds to a suite.

    PGD-20, Auto-PGD and Square ascend a loss of (logits, labels); targeted Auto-PGD and FAB ascend
    a targeted loss (see ``losses.Targeted``), which is positive beyond the boundary. Success is
    judged as for other attacks: another class than the label, on the model itself.
    """
    loss = as_loss(loss)
    if loss.targeted:
        attacks: dict[str, Attack] = {
            "apgd-t": APGD(threat=threat, loss=loss, targets=MOST_TARGETS, retire_every=RETIRE),
            "fab-t": FAB(threat=threat, loss=loss, retire_every=RETIRE),
        }
    else:
        attacks = {
            "pgd-20": PGD(threat=threat, steps=20, step_size=threat.epsilon / 4, loss=loss),
            "apgd": APGD(threat=threat, loss=loss, retire_every=RETIRE),
        }
        if not loss.needs_clean:
            attacks["square"] = Square(threat=threat, loss=loss, retire_every=RETIRE_SQUARE)
    return tuple(Member(name=f"{name}-adaptive", attack=attack) for name, attack in attacks.items())


@checked(threat=REGION)
def custom(threat: Region, attacks: Mapping[str, Any], *, name: str = "custom") -> Suite:
    """A user's suite: attacks by name, each an ``Attack`` or ``(model, images, labels) ->
    images``.

    ``custom(threat, {"fgsm": FGSM(threat=threat), "mine": my_attack})``

    A plain callable draws its random numbers from a global state seeded per batch, so its results
    (alone) depend on how the images are split into batches.
    """
    if not isinstance(attacks, Mapping):
        raise SettingError(
            f"attacks={shown(attacks)}: pass attacks by name, as {{'pgd': PGD(...)}}"
        )
    # No threat for the adapter: the evaluation checks each result and can name the image.
    members = tuple(Member(name=key, attack=as_attack(attack)) for key, attack in attacks.items())
    return Suite(name=name, threat=threat, members=members)


def replaced(suite: Suite, classes: int) -> tuple[str, ...]:
    """Sentences about attacks that differ from their names, on a model with fewer than 10 classes,
    or where epsilon is 0."""
    notes = []
    if getattr(suite.threat, "epsilon", None) == 0:
        notes.append("epsilon is 0, so nothing can be attacked: these are natural accuracies")
    for step in suite.steps:
        for attack in _inside(step.attack):
            number, loss = getattr(attack, "targets", None), getattr(attack, "loss", None)
            if isinstance(number, int) and number > classes - 1:
                notes.append(f"{step.name} aims at {classes - 1} wrong classes instead of {number}")
            if loss is targeted_dlr and classes < _CLASSES_OF_TARGETED_DLR:
                notes.append(
                    f"{step.name} ascends z_t - z_y: the targeted DLR loss needs four classes, the "
                    f"model has {classes}"
                )
            if loss is dlr and classes < _CLASSES_OF_DLR:
                notes.append(
                    f"{step.name} ascends the logit margin: the DLR loss needs three classes, the "
                    f"model has {classes}"
                )
    return tuple(dict.fromkeys(notes))


def _inside(attack: Any) -> Iterator[Any]:
    """The attack itself, or the attacks that it wraps."""
    if isinstance(attack, Cascade):
        for member in attack.members.values():
            yield from _inside(member)
    elif isinstance(getattr(attack, "attack", None), Attack):
        yield from _inside(attack.attack)
    else:
        yield attack


def describe_threat(threat: Region) -> str:
    """``Linf(epsilon=8/255)``, ``Linf(epsilon=0.2)``: a short decimal, else a fraction of 255."""
    epsilon = getattr(threat, "epsilon", None)
    if not isinstance(epsilon, int | float):
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(threat))
    levels = round(epsilon * 255)
    text = repr(float(epsilon))
    if len(text) > _SHORT_DECIMAL and levels / 255 == epsilon:
        text = f"{levels}/255"
    return f"{type(threat).__name__}(epsilon={text})"
