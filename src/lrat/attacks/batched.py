"""Several attacks on the same images whose steps are taken as one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrat.attacks.adapters import protected_from
from lrat.attacks.apgd import APGD
from lrat.attacks.base import Attack, Rows, Variant, framed
from lrat.attacks.pgd import PGD
from lrat.randomness import NoiseLike, Sequential, as_noise
from lrat.types import Images, Labels, Logits

_MOST_ROWS = 512
_MOST_VALUES = 2**18
"""Largest shared batch that pays on a processor, in images and in values of images. Measured (see
``results/benchmarks/shared_batches.md``): half the calls save up to a quarter of small batches'
time; beyond, a batch outgrows the caches and two smaller ones are faster. Not measured on a GPU."""


def rows_that_pay(images: Images) -> int:
    """How many rows of images like these a shared batch may have and still save time."""
    return min(_MOST_ROWS, _MOST_VALUES // max(images[:1].numel(), 1))


@dataclass(frozen=True, kw_only=True)
class PlannedAttack:
    """An attack that is wanted, with its own noise."""

    attack: Attack
    noise: NoiseLike


def attack_together(
    model: nn.Module,
    images: Images,
    labels: Labels,
    asked: Sequence[PlannedAttack],
    *,
    clean_logits: Logits | None = None,
    most_rows: int,
) -> list[Variant]:
    """A variant for each of ``asked``, in their order: what each attack would give by itself.

    PGD attacks of the same threat, steps and step size, and stacked Auto-PGD attacks of the same
    threat, steps and choice, send their images through the model as one batch of at most
    ``most_rows`` rows: one forward and one gradient per step for all of them. Losses, starts,
    targets and noise are each attack's own. All else runs by itself: other attacks, attacks that
    would exceed ``most_rows`` together, and those whose noise depends on the order of draws.
    """
    variants: dict[int, Variant] = {}
    for group in _groups(asked, len(images), most_rows):
        members = [asked[place] for place in group]
        if len(members) == 1:
            (one,) = members
            with protected_from(one.attack, model):
                variant = one.attack(
                    model, images, labels, noise=one.noise, clean_logits=clean_logits
                )
            made = [variant]
        else:
            made = _as_one_batch(members, model, images, labels, clean_logits)
        variants |= zip(group, made, strict=True)
    return [variants[place] for place in range(len(asked))]


def _groups(asked: Sequence[PlannedAttack], batch: int, most_rows: int) -> list[list[int]]:
    """The places of attacks that run together, the earliest attack's group first."""
    groups: list[list[int]] = []
    open_groups: list[tuple[object, int, list[int]]] = []
    for place, each in enumerate(asked):
        stride, rows = _stride(each), _tries(each.attack) * batch
        for number, (other, used, members) in enumerate(open_groups):
            if stride is not None and stride == other and used + rows <= most_rows:
                members.append(place)
                open_groups[number] = (other, used + rows, members)
                break
        else:
            groups.append([place])
            open_groups.append((stride, rows, groups[-1]))
    return groups


def _stride(each: PlannedAttack) -> tuple[object, ...] | None:
    """What has to be equal; None for what runs by itself."""
    attack = each.attack
    if isinstance(each.noise, Sequential | torch.Generator):
        return None
    # Not a class made from these, which may do something else.
    if type(attack) not in (PGD, APGD) or not isinstance(attack, PGD | APGD):
        return None
    return None if attack.stride is None else (type(attack), *attack.stride)


def _tries(attack: Attack) -> int:
    return attack.most_tries if isinstance(attack, PGD | APGD) else 1


def _as_one_batch(
    members: Sequence[PlannedAttack],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    clean_logits: Tensor | None,
) -> list[Variant]:
    # All PGD or all Auto-PGD: each takes what its kind finds.
    attacks: list[Any] = [each.attack for each in members]
    needs_clean = any(attack.needs_clean for attack in attacks)
    with framed(model, images, labels, clean_logits, needs_clean=needs_clean) as given:
        parts = []
        for attack, each in zip(attacks, members, strict=True):
            noise = as_noise(each.noise, len(images), images.device)
            parts.append(attack.rows(given.images, given.labels, noise, given.clean))
        found = attacks[0].run(model, Rows.stack(parts))
        variants, first = [], 0
        for attack, part in zip(attacks, parts, strict=True):
            stop = first + len(part.labels)
            variants.append(attack.variant(found.part(first, stop), given.images))
            first = stop
        return variants
