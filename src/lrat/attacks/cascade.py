"""Attacks one after the other, each on the images that the previous ones did not fool."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lrat.attacks.adapters import AttackLike, as_attack, protected_from
from lrat.attacks.apgd import APGD
from lrat.attacks.base import Attack, Best, GradientAttack, Variant, confirmed, costs, whole
from lrat.attacks.fab import FAB
from lrat.attacks.presets import MOST_TARGETS, RETIRE, RETIRE_SQUARE
from lrat.attacks.square import Square
from lrat.checks import FLAG, check_fields, checked
from lrat.errors import SettingError
from lrat.hooks import PassCounter
from lrat.losses import probability_margin, targeted_dlr
from lrat.outputs import forward_logits
from lrat.randomness import Noise
from lrat.text import shown
from lrat.threat import BALL, Ball
from lrat.types import Images, Labels, Logits


@dataclass(frozen=True, kw_only=True)
class Cascade(GradientAttack):
    """Attacks by name, in order, each on the images that the previous ones did not fool.

    ``members``: attacks, or any callables ``(model, images, labels) -> images``.

    An image is fooled when the model misclassifies the image that an attack returned (of an
    accelerated view: when its original does too). Returned is its first success, else the candidate
    with the smallest probability margin. The trace's ``source`` is the member's number. Each member
    draws from the noise's child of its name. An evaluation calls the members one by one, so that it
    has outcomes of each.

    Raises ``SettingError`` for a cascade without attacks.
    """

    members: Mapping[str, AttackLike] = field(hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.members, Mapping) or not self.members:
            raise SettingError(
                f"Cascade(members={shown(self.members)}): must be at least one attack by its name, "
                "as members={'pgd': PGD(...)}"
            )
        object.__setattr__(self, "members", self.attacks)

    @property
    def attacks(self) -> dict[str, Attack]:
        """The members; plain callables are adapted."""
        return {name: as_attack(attack) for name, attack in self.members.items()}

    @property
    def needs_clean(self) -> bool:
        return any(attack.needs_clean for attack in self.attacks.values())

    def perturb(
        self, model: nn.Module, images: Images, labels: Labels, noise: Noise, clean: Logits | None
    ) -> Variant:
        parts = [(attack, noise.child(name)) for name, attack in self.attacks.items()]
        return _one_after_the_other(parts, model, images, labels, clean)


@dataclass(frozen=True, kw_only=True)
class Restarts(GradientAttack):
    """One attack ``count`` times from different starts, each on the images not fooled yet.

    It returns images as ``Cascade`` does; the trace's ``source`` is the restart's number.
    Raises ``SettingError`` for a count below 1.
    """

    attack: AttackLike
    count: int

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "attack", as_attack(self.attack))

    @property
    def needs_clean(self) -> bool:
        return as_attack(self.attack).needs_clean

    def perturb(
        self, model: nn.Module, images: Images, labels: Labels, noise: Noise, clean: Logits | None
    ) -> Variant:
        attack = as_attack(self.attack)
        parts = [(attack, noise.child(number)) for number in range(self.count)]
        return _one_after_the_other(parts, model, images, labels, clean)


@checked(threat=BALL, retire=FLAG)
def AutoAttack(*, threat: Ball, retire: bool = True) -> Cascade:  # noqa: N802 - the attack's name
    """AutoAttack's standard version (Croce & Hein 2020): Auto-PGD on cross-entropy, on the targeted
    DLR loss (9 targets), targeted FAB and Square with 5,000 queries.

    With fewer than ten classes there are as many targets as wrong classes, and losses that are
    undefined for so few are replaced (see ``losses``). ``retire``: fooled images leave the batch
    during an attack, which costs a few synchronisations and changes no verdict.
    """
    every, rarely = (RETIRE, RETIRE_SQUARE) if retire else (None, None)
    return Cascade(
        members={
            "apgd-ce": APGD(threat=threat, retire_every=every),
            "apgd-t": APGD(
                threat=threat, loss=targeted_dlr, targets=MOST_TARGETS, retire_every=every
            ),
            "fab-t": FAB(threat=threat, retire_every=every),
            "square": Square(threat=threat, retire_every=rarely),
        }
    )


def _one_after_the_other(
    parts: Iterable[tuple[Attack, Noise]],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    clean: Tensor | None,
) -> Variant:
    """The first success of each image over these attacks, else its smallest margin."""
    best = Best(images, labels)
    rows = torch.arange(len(labels), device=labels.device)
    for number, (attack, noise) in enumerate(parts):
        truth, logits = labels[rows], None if clean is None else clean[rows]
        # A user's attack may rely on gradients being on.
        with PassCounter(model) as counter, torch.enable_grad(), protected_from(attack, model):
            variant = attack(
                model, images[rows], truth, noise=noise.select(rows), clean_logits=logits
            )
        logits = forward_logits(model, variant.images)
        # Not the margin's sign: two probabilities may be equal where their logits are not.
        fooled = confirmed(model, variant.images, truth, logits.argmax(1) != truth)
        cost = costs(variant.trace, counter, len(rows))
        best.take(
            rows,
            variant.images,
            margin=probability_margin(logits, truth),
            fooled=fooled,
            step=whole(cost["step"], rows),
            source=number,
            forwards=whole(cost["forwards"], rows) + 1,
            backwards=whole(cost["backwards"], rows),
        )
        rows = rows[~fooled]
        if len(rows) == 0:
            break
    return best.variant()
