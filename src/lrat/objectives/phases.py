"""An objective that changes during training, at fractions of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from lrat.attacks.base import Variant
from lrat.checks import FRACTION
from lrat.errors import SettingError
from lrat.objectives.base import Objective, ObjectiveOutput, StepContext
from lrat.text import shown
from lrat.types import Batch


@dataclass(frozen=True)
class Phases:
    """Objectives in phases, of which the latest that has begun applies; see ``phases``."""

    starts: tuple[tuple[float, Objective], ...]

    def at(self, progress: float) -> Objective:
        """The objective that applies at this fraction of training."""
        begun = [objective for start, objective in self.starts if progress >= start]
        return begun[-1] if begun else self.starts[0][1]

    def attack(self, view: nn.Module, batch: Batch, step: StepContext) -> dict[str, Variant]:
        return self.at(step.progress).attack(view, batch, step)

    def loss(
        self, model: nn.Module, batch: Batch, variants: Mapping[str, Variant], step: StepContext
    ) -> ObjectiveOutput:
        return self.at(step.progress).loss(model, batch, variants, step)


def phases(schedule: Mapping[float, Objective]) -> Phases:
    """``{fraction: objective}``: each objective applies from its fraction of training on; the first
    fraction must be 0.0.

    Epoch 30 of a 100-epoch schedule is 0.3, also when training stops after 66.
    """
    if not isinstance(schedule, Mapping):
        raise SettingError(
            f"phases {shown(schedule)}: pass a mapping, as {{0.0: sat, 0.3: gairat}}"
        )
    for start, objective in schedule.items():
        FRACTION("the start of a phase", start)
        if not isinstance(objective, Objective):
            raise SettingError(f"the phase from {start} is {shown(objective)}: pass an Objective")
    starts = sorted(schedule)
    if not starts or starts[0] != 0:
        raise SettingError(f"phases start at {starts}: the first must start at 0.0")
    return Phases(tuple((start, schedule[start]) for start in starts))
