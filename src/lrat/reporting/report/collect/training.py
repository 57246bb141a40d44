"""What a run's epochs tell: learning curves, the selected one, overfitting, cost."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from lrat.evaluation.outcomes import NATURAL
from lrat.evaluation.statistics import wilson
from lrat.reporting.report.collect.reading import at, number, numbers
from lrat.reporting.report.records import (
    CLEAN,
    HELD_OUT,
    MONITORED,
    ROBUST,
    Cost,
    Overfitting,
)

_LARGEST_SET = 200_000
"""Images of a held-out or test set at most: shares of more cannot be distinguished."""
_GUARD = "robust-overfitting"
_PASSES = ("attack_forwards", "attack_backwards", "update_forwards", "update_backwards")


def accuracy(epochs: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """Every accuracy that lines of ``metrics.jsonl`` hold, by name and epoch; what earlier versions
    did not write, and what is no number, is left out."""
    series: dict[str, dict[int, float]] = {}
    for line in epochs:
        measured = {
            CLEAN: line.get("clean_accuracy"),
            ROBUST: line.get("robust_accuracy"),
            **{f"{HELD_OUT}{name}": each for name, each in numbers(line.get("validation")).items()},
            **{f"{MONITORED}{name}": each for name, each in numbers(line.get("monitor")).items()},
        }
        for name, value in numbers(measured).items():
            series.setdefault(name, {})[line["epoch"]] = value
    return series


def notices(epochs: Sequence[Mapping[str, Any]]) -> dict[int, list[str]]:
    """What guards said, by epoch, in their words."""
    stored = {line["epoch"]: line.get("notices") for line in epochs}
    return {
        epoch: [str(each.get("text", "") if isinstance(each, Mapping) else each) for each in said]
        for epoch, said in stored.items()
        if isinstance(said, list) and said
    }


def overfitting(epochs: Sequence[Mapping[str, Any]], split: str) -> Overfitting | None:
    """The best robust accuracy of an epoch against the last one's, on held-out images under attack,
    else on the monitored ones (of ``split``); None where no such accuracy was measured twice.

    Under several attacks, the one that is worst in the last epoch. Marked where the 95 % intervals
    of the two lie apart (the best of many epochs is lucky as well), or where a guard said so.
    """
    for images, key in (("held-out", "validation"), (split, "monitor")):
        series = [(line["epoch"], numbers(line.get(key))) for line in epochs]
        known = [(epoch, values) for epoch, values in series if set(values) - {NATURAL}]
        attacks = set.intersection(*(set(v) for _, v in known)) - {NATURAL} if known else set()
        if len(known) < 2 or not attacks:
            continue
        attack = min(sorted(attacks), key=lambda name: known[-1][1][name])
        values = [(held[attack], epoch) for epoch, held in known]
        best, epoch = max(values, key=lambda pair: (pair[0], -pair[1]))
        last = values[-1][0]
        n = images_behind([share for _, held in known for share in held.values()])
        apart = n is not None and wilson(round(best * n), n).low > wilson(round(last * n), n).high
        return Overfitting(
            on=f"{attack} on {images} images",
            best_epoch=epoch,
            best=best,
            last=last,
            n=n,
            marked=last < best and (apart or _guard_spoke(epochs)),
        )
    return None


def _guard_spoke(epochs: Sequence[Mapping[str, Any]]) -> bool:
    return any(
        at(notice, "guard") == _GUARD
        for line in epochs
        for notice in (line.get("notices") or ())
        if isinstance(notice, Mapping)
    )


def images_behind(shares: Sequence[float]) -> int | None:
    """The least number of images of which all ``shares`` are shares; None where there is none.

    What was measured on n images are fractions of n, whose common denominator is n or divides it:
    intervals by it are never too narrow.
    """
    common = 1
    for share in shares:
        exact = Fraction(share).limit_denominator(_LARGEST_SET)
        if abs(float(exact) - share) > 1e-12:
            return None
        common = math.lcm(common, exact.denominator)
        if common > _LARGEST_SET:
            return None
    return common if common > 1 else None


def cost(epochs: Sequence[Mapping[str, Any]], parameters: Any) -> Cost | None:
    """Mean passes per image and epoch, and seconds of all epochs; None without an epoch."""
    if not epochs:
        return None
    passes = {}
    for kind in _PASSES:
        values = [
            value for line in epochs if (value := number(at(line, "passes", kind))) is not None
        ]
        if values:
            passes[kind.replace("_", " ")] = sum(values) / len(values)
    return Cost(
        passes=passes,
        seconds=sum(number(line.get("seconds")) or 0.0 for line in epochs),
        epochs=len(epochs),
        images=int(number(epochs[-1].get("images")) or 0),
        parameters=parameters if isinstance(parameters, int) else None,
    )
