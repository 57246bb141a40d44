"""Our attacks on a subject: through the plain model, and through the views that pay here."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from lrat.acceleration import Choices, accelerate, choose
from lrat.attacks import APGD, CW, PGD, SAA, Attack
from lrat.losses import targeted_dlr
from lrat.threat import Linf
from measuring import Entry, features
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
    """What ``accelerate`` takes for this network on this machine when nothing else runs.

    It probes bfloat16 by a short timing, which other programs can disturb; here a processor that
    says that it computes bfloat16 is believed, for networks that are large enough.
    """
    probed = choose(subject.model, subject.images)
    native = {"avx512_bf16", "amx_bf16"} & set(features())
    return replace(probed, precision="bfloat16") if probed.channels_last and native else probed


def views(subject: Subject) -> dict[str, nn.Module]:
    """The network as attacks may see it: plain, in float32, in bfloat16 where that pays."""
    best = best_choices(subject)
    found: dict[str, nn.Module] = {"plain model": subject.model}
    for choices in dict.fromkeys([replace(best, precision="float32"), best]):
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
