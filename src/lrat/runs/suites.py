"""Suites by name, from a YAML file, and with the attacks that a user adds to them."""

import re
from collections.abc import Iterable
from pathlib import Path

from lrat.attacks import CW, PGD, SAA, Attack, AutoAttack
from lrat.config import catalogue
from lrat.errors import UnknownNameError
from lrat.evaluation import Member, Suite, adaptive, paper, quick, strong, tier
from lrat.experiments.carried import Origin
from lrat.experiments.own_parts import loss_named
from lrat.experiments.suite_files import suite_from_file
from lrat.experiments.suite_names import names_a_file, run_name
from lrat.threat import Ball

_DIGITS = 8


def suite(
    name: str,
    ball: Ball,
    classes: int,
    *,
    loss: str | None = None,
    transfer: Iterable[Path | str] = (),
) -> Suite:
    """The suite called ``name``, or the one in the YAML file of that path.

    ``loss``: a user's own (``FILE.py:NAME``), for which the adaptive attacks are added;
    ``transfer``: run folders, from each of which PGD-20 and targeted Auto-PGD are carried over;
    where two are called the same, their models' digests tell them apart.
    """
    by_file = names_a_file(name)
    chosen = suite_from_file(Path(name), ball) if by_file else _by_name(name, ball, classes)
    added: list[Member] = []
    if loss is not None:
        added += adaptive(ball, loss_named(loss))
    runs = list(transfer)
    short = [run_name(run) for run in runs]
    for run, own in zip(runs, short, strict=True):
        origin = Origin.of(run)
        source = own if short.count(own) == 1 else f"{own}-{origin.digest[:_DIGITS]}"
        for attack in quick(ball).members[:1] + tier(ball, classes).members[-1:]:
            added.append(
                Member(name=f"{attack.name}-from-{source}", attack=origin.makes(attack.attack))
            )
    return chosen.with_members(*added) if added else chosen


def _by_name(name: str, ball: Ball, classes: int) -> Suite:
    catalogue.check_suite_name(name)
    if name == "tier":
        return tier(ball, classes)
    return {"quick": quick, "paper": paper, "strong": strong}[name](ball)


def attack(name: str, ball: Ball) -> Attack:
    """An evaluation attack by name: pgd-20, cw-20 (any number of steps), those of AutoAttack,
    saa."""
    counted = re.fullmatch(r"(pgd|cw)-([1-9]\d*)", name)
    if counted:
        steps, step_size = int(counted[2]), ball.epsilon / 4
        make = PGD if counted[1] == "pgd" else CW
        return make(threat=ball, steps=steps, step_size=step_size)
    whole = AutoAttack(threat=ball)
    named: dict[str, Attack] = {**whole.attacks, "autoattack": whole, "saa": SAA(threat=ball)}
    if name not in named:
        raise UnknownNameError("attack", name, ["pgd-20", "cw-20", *named])
    return named[name]


def attacks_as_suite(names: tuple[str, ...], ball: Ball) -> Suite:
    """Named attacks as a suite of their own, for monitoring."""
    members = tuple(Member(name=name, attack=attack(name, ball)) for name in names)
    return Suite(name="+".join(names), threat=ball, members=members)
