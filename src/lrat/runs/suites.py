"""Suites by name, from a YAML file, and with the attacks that a user adds to them."""

from collections.abc import Iterable
from pathlib import Path

from lrat.config import catalogue
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
