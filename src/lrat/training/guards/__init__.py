"""Guards: what goes wrong in a run, said once, in words, and recorded."""

from collections.abc import Sequence

from lrat.training.guards.base import Guard, Guards, Notice
from lrat.training.guards.readings import Measured, Probe, Reading, probe_size
from lrat.training.guards.rules import (
    CatastrophicOverfitting,
    CollapsedWeights,
    IdleAttack,
    ImageScale,
    NothingLearnt,
    NoWeights,
    RobustOverfitting,
    SkippedSteps,
    SmallValidation,
)

__all__ = [
    "CatastrophicOverfitting",
    "CollapsedWeights",
    "Guard",
    "Guards",
    "IdleAttack",
    "ImageScale",
    "Measured",
    "NoWeights",
    "NothingLearnt",
    "Notice",
    "Probe",
    "Reading",
    "RobustOverfitting",
    "SkippedSteps",
    "SmallValidation",
    "probe_size",
    "standard_guards",
]


def standard_guards(
    *,
    validation: Measured | None = None,
    selects: bool = False,
    probe: Measured | None = None,
    largest_class: float | None = None,
    clean_images: int = 0,
    said: Sequence[str] = (),
) -> Guards:
    """All guards that what is measured allows.

    ``validation``: accuracy under an attack on held-out images; ``selects``: it chooses the epoch.
    ``probe``: that of ``Watch.probe``; where both are there, catastrophic overfitting is looked for
    on the probe's training images. ``largest_class``: the share of the most frequent class among
    the ``clean_images`` training images whose clean accuracy is recorded. ``said``: guards whose
    words were given before the run.
    """
    guards: list[Guard] = [SkippedSteps(), ImageScale()]
    if largest_class is not None:
        guards.append(NothingLearnt(largest_class=largest_class, images=clean_images))
    guards.append(IdleAttack())
    stronger = validation if probe is None else probe
    if stronger is not None:
        guards.append(CatastrophicOverfitting(stronger=stronger, held_out=probe is None))
    if validation is not None:
        guards.append(RobustOverfitting(validation=validation, selects=selects))
    guards += [CollapsedWeights(), NoWeights()]
    if validation is not None and selects:
        guards.append(SmallValidation(validation=validation))
    return Guards(guards, validation=validation, probe=probe, said=said)
