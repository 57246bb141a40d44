"""Our attacks on a subject: through the plain model, and through the views that pay here."""

from collections.abc import Callable

from torch import nn

from lrat.acceleration import Choices, accelerate, choose
from lrat.attacks import APGD, CW, PGD, SAA, Attack
from lrat.losses import targeted_dlr
from lrat.threat import Linf
from measuring import Entry
from rivals import TARGETS
from subjects import EPSILON, STEP_SIZE, Subject

THREAT = Linf(epsilon=EPSILON)
ATTACKS: dict[str, list[tuple[str, Callable[[int], Attack]]]] = {
    "PGD": [("", lambda steps: PGD(threat=THREAT, steps=steps, step_size=STEP_SIZE))],
    "CW": [("", lambda steps: CW(threat=THREAT, steps=steps, step_size=STEP_SIZE))],
    "APGD-CE": [("", lambda steps: APGD(threat=THREAT, steps=steps))],
    "APGD-T": [
        (
            "",
            lambda steps: APGD(threat=THREAT, steps=steps, loss=targeted_dlr, targets=TARGETS),
        ),
        (" SAA", lambda steps: SAA(threat=THREAT, steps=steps, targets=TARGETS)),
    ],
}
"""Heading -> our attacks under it; SAA is APGD-T with its targets stacked into one batch."""


def best_choices(subject: Subject) -> Choices:
    """What ``accelerate`` takes for this network on this machine."""
    return choose(subject.model, subject.images)


def views(subject: Subject) -> dict[str, nn.Module]:
    """The network as attacks may see it: plain, in float32, in bfloat16 where that pays."""
    best = best_choices(subject)
    full = Choices(fold=best.fold, channels_last=best.channels_last)
    found: dict[str, nn.Module] = {"plain model": subject.model}
    for choices in dict.fromkeys([full, best]):
        view = accelerate(subject.model, subject.images, choices=choices)
        found[f"{view.choices.precision} view"] = view
    return found


def entries(kind: str, subject: Subject, seen: dict[str, nn.Module], steps: int) -> list[Entry]:
    """Our attacks of this heading, through each of the views."""
    return [
        _entry(f"lrat{label}, {name}", make(steps), subject, view)
        for label, make in ATTACKS[kind]
        for name, view in seen.items()
    ]


def _entry(name: str, attack: Attack, subject: Subject, view: nn.Module) -> Entry:
    return Entry(
        name=name,
        work=lambda: attack(view, subject.images, subject.labels, noise=0).images,
        watched=(view,),
        images=len(subject.images),
    )
