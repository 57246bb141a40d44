"""Several attacks on the same images that step as one batch."""

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
"""The largest shared batch that saves time on a processor, in images and in values of images.
Measured (``results/benchmarks/shared_batches.md``): half the calls save up to a quarter of the time
of small batches; a larger batch exceeds the caches, and two smaller ones are faster. Not measured
on a GPU."""


def rows_that_pay(images: Images) -> int:
    """The largest number of rows of such images with which a shared batch saves time."""
    return min(_MOST_ROWS, _MOST_VALUES // max(images[:1].numel(), 1))


@dataclass(frozen=True, kw_only=True)
class PlannedAttack:
    """An attack with its noise."""

    attack: Attack
    noise: NoiseLike


def attack_together(
    model: nn.Module,
    images: Images,
    labels: Labels,
    planned: Sequence[PlannedAttack],
    *,
    clean_logits: Logits | None = None,
    most_rows: int,
) -> list[Variant]:
    """The variants of the ``planned`` attacks, in their order, as each attack alone returns them.

    PGD attacks of the same threat, steps and step size, and stacked Auto-PGD attacks of the same
    threat, steps and choice, forward their images as one batch of at most ``most_rows`` rows: one
    forward and one gradient per step for all of them, each with its loss, starts, targets and
    noise. Other attacks run alone, and so do those that together would exceed ``most_rows``, and
    those whose noise depends on the order of draws.
    """
    variants: dict[int, Variant] = {}
    for group in _groups(planned, len(images), most_rows):
        if len(group) == 1:
            (one,) = (planned[number] for number in group)
            with protected_from(one.attack, model):
                variants[group[0]] = one.attack(
                    model, images, labels, noise=one.noise, clean_logits=clean_logits
                )
        else:
            members = [planned[number] for number in group]
            results = _as_one_batch(members, model, images, labels, clean_logits)
            variants |= zip(group, results, strict=True)
    return [variants[number] for number in range(len(planned))]


def _groups(planned: Sequence[PlannedAttack], batch: int, most_rows: int) -> list[list[int]]:
    """The numbers of attacks that run together, the earliest attack's group first."""
    groups: list[list[int]] = []
    strides: list[tuple[object, ...] | None] = []
    sizes: list[int] = []
    for number, each in enumerate(planned):
        stride = _stride(each)
        rows = batch * getattr(each.attack, "most_tries", 1)
        for group, members in enumerate(groups):
            if stride is not None and stride == strides[group] and sizes[group] + rows <= most_rows:
                members.append(number)
                sizes[group] += rows
                break
        else:
            groups.append([number])
            strides.append(stride)
            sizes.append(rows)
    return groups


def _stride(each: PlannedAttack) -> tuple[object, ...] | None:
    """Equal for attacks that may run together; None for an attack that runs alone."""
    attack = each.attack
    if isinstance(each.noise, Sequential | torch.Generator):
        return None
    # Not a subclass of these, which may step in another way.
    if type(attack) not in (PGD, APGD) or not isinstance(attack, PGD | APGD):
        return None
    return None if attack.stride is None else (type(attack), *attack.stride)


def _as_one_batch(
    members: Sequence[PlannedAttack],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    clean_logits: Tensor | None,
) -> list[Variant]:
    # All are PGD or all are Auto-PGD, so each understands the run of the first.
    attacks: list[Any] = [each.attack for each in members]
    needs_clean = any(attack.needs_clean for attack in attacks)
    with framed(model, images, labels, clean_logits, needs_clean=needs_clean) as inputs:
        parts = []
        for attack, each in zip(attacks, members, strict=True):
            noise = as_noise(each.noise, len(images), images.device)
            parts.append(attack.rows(inputs.images, inputs.labels, noise, inputs.clean))
        run = attacks[0].run(model, Rows.stack(parts))
        variants, first = [], 0
        for attack, part in zip(attacks, parts, strict=True):
            stop = first + len(part.labels)
            variants.append(attack.variant(run.part(first, stop), inputs.images))
            first = stop
        return variants
