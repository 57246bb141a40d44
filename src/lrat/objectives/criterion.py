"""The loss that an objective descends."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from lrat.errors import SettingError
from lrat.losses import Loss, LossLike, as_loss, cross_entropy
from lrat.objectives.phases import Phases

AnyObjective = TypeVar("AnyObjective")


def as_criterion(loss: LossLike) -> Loss:
    """A loss of logits and labels alone; ``SettingError`` for one that needs the clean logits."""
    criterion = as_loss(loss)
    if criterion.needs_clean or criterion.targeted:
        raise SettingError(
            f"criterion={criterion!r}: training descends a loss of logits and labels alone, as "
            "cross_entropy; losses that compare with the clean image are for attacks and Trades"
        )
    return criterion


def with_criterion(objective: AnyObjective, criterion: LossLike) -> AnyObjective:
    """The same objective, in all its phases, with this loss instead of cross-entropy.

    Raises ``SettingError`` for an objective without a ``criterion``, or with another one already.
    """
    if isinstance(objective, Phases):
        starts = [(start, with_criterion(part, criterion)) for start, part in objective.starts]
        return replace(objective, starts=tuple(starts))
    known: Any = objective
    names = {each.name for each in fields(known)} if is_dataclass(objective) else set()
    if "criterion" not in names:
        raise SettingError(
            f"{type(objective).__name__} has no criterion, so that its loss cannot be changed from "
            "outside: build your loss (label smoothing, ...) into the objective itself"
        )
    terms = getattr(known, "terms", ())
    for each in (known.criterion, *(getattr(term, "criterion", None) for term in terms)):
        if each is not None and each is not cross_entropy:
            raise SettingError(
                f"{type(objective).__name__} has the criterion {each!r} already, which "
                f"{criterion!r} would replace: choose one of the two"
            )
    changed: AnyObjective = replace(known, criterion=as_criterion(criterion))
    return changed
