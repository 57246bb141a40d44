"""Clocks around the parts of a run, and what they showed as a profile.

Where the time of a run went, as a table to read.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from lrat.acceleration import FastView, View, describe
from lrat.attacks.base import Attack, Variant
from lrat.experiments.clocks import (
    BACKWARD,
    FORWARD,
    PassClock,
    PassFlop,
    PhaseClock,
    image_pass_flop,
    matrix_peak,
    part,
    saved_activations,
)
from lrat.modes import evaluating
from lrat.objectives.base import Objective, ObjectiveOutput, StepContext
from lrat.randomness import NoiseLike
from lrat.types import Batch, Images, Labels, Logits

DATA, ATTACK, UPDATE, REST = "data", "attack", "update", "rest"
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_UNITS = ((1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s"))
_DASH = "–"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One line. ``passes`` (images forward plus gradients back) and ``flop`` are of all images
    together, None where they are unknown or do not apply; ``precision`` names the peak to meet."""

    name: str
    seconds: float
    passes: int | None = None
    flop: float | None = None
    precision: str = "float32"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What was measured over ``images`` images.

    ``peaks``: FLOP/s of the fastest matrix product by precision. ``activations`` and
    ``plain_activations``: bytes per image that a pass of an attack saves, as attacks see the model
    (``view``) and through the model itself. ``attacks``: seconds by attack, where known.
    """

    title: str
    view: str
    images: int
    parts: Sequence[Part]
    peaks: Mapping[str, float]
    activations: int
    plain_activations: int
    attacks: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.parts)

    @property
    def share_of_peak(self) -> float | None:
        """The share of all time that the counted FLOP would take at the peak of their precision."""
        least = [part.flop / self.peaks[part.precision] for part in self.parts if part.flop]
        return sum(least) / self.seconds if least else None

    def __str__(self) -> str:
        """The table with its footnotes."""
        scale, unit = self._unit()
        header = ["", "share", "s/1,000 images", "passes/image", unit, "of peak"]
        lines = [header, *(self._line(part, scale) for part in self.parts), self._total(scale)]
        return "\n".join(
            [self.title, f"attacks see {self.view}", "", *aligned(lines), "", *self._notes()]
        )

    def _line(self, part: Part, scale: float) -> list[str]:
        rate = part.flop / part.seconds if part.flop and part.seconds else None
        peak = self.peaks[part.precision]
        return [
            part.name,
            f"{100 * part.seconds / self.seconds:.1f} %",
            f"{1000 * part.seconds / self.images:.3f}",
            _DASH if part.passes is None else f"{part.passes / self.images:.2f}",
            _DASH if rate is None else f"{rate / scale:.1f}",
            _DASH if rate is None else f"{100 * rate / peak:.0f} %",
        ]

    def _total(self, scale: float) -> list[str]:
        flop = sum(part.flop or 0 for part in self.parts)
        share = self.share_of_peak
        return [
            "total",
            "100.0 %",
            f"{1000 * self.seconds / self.images:.3f}",
            f"{sum(part.passes or 0 for part in self.parts) / self.images:.2f}",
            f"{flop / self.seconds / scale:.1f}" if flop else _DASH,
            _DASH if share is None else f"{100 * share:.0f} %",
        ]

    def _notes(self) -> list[str]:
        scale, unit = self._unit()
        peaks = [f"{peak / scale:.1f} in {name}" for name, peak in self.peaks.items()]
        notes = [
            f"peak, the fastest matrix product here: {', '.join(peaks)} ({unit})",
            f"saved activations of an attack's pass: {_kilobytes(self.activations)} per image; "
            f"through the model itself {_kilobytes(self.plain_activations)}",
        ]
        if self.attacks:
            shares = (
                f"{name} {100 * seconds / self.seconds:.1f} %"
                for name, seconds in self.attacks.items()
            )
            notes.append(f"by attack: {', '.join(shares)}")
        return notes

    def _unit(self) -> tuple[float, str]:
        lowest = min(self.peaks.values())
        return next((unit for unit in _UNITS if lowest >= unit[0]), _UNITS[-1])


class Meter:
    """Measures the phases of a run of ``network``, which attacks see as ``view``.

    ``probe`` [B C H W]: a few images, to count FLOP and bytes with. Inside its context every pass
    through the two modules is timed and counted.
    """

    def __init__(self, network: nn.Module, view: nn.Module, probe: Images) -> None:
        self.clock = PhaseClock(probe.device, REST)
        self.by_attack: defaultdict[str, float] = defaultdict(float)
        self._passes = PassClock(self.clock, view, network)
        self._network = network
        self._view = view
        self._probe = probe

    def __enter__(self) -> "Meter":
        self._passes.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._passes.close()

    def reset(self) -> None:
        """Forget what was measured so far: it was a warm-up."""
        self.clock.reset()
        self.by_attack.clear()
        self._passes.rows.clear()

    def profile(self, title: str, images: int, parts: Sequence[Part]) -> Profile:
        """What was measured over ``images`` images: attacks first, then ``parts``."""
        network, view, probe = self._network, self._view, self._probe
        with evaluating(network):
            activations, plain = (saved_activations(seen, probe[:1]) for seen in (view, network))
        return Profile(
            title=title,
            view=f"the model in {describe(view)}" if isinstance(view, View) else "the model itself",
            images=images,
            parts=[*self._attacking(), *parts, self._plain(DATA), self._plain(REST)],
            peaks={name: matrix_peak(probe.device, dtype) for name, dtype in _PRECISIONS.items()},
            activations=activations,
            plain_activations=plain,
            attacks=dict(self.by_attack),
        )

    def passing(self, name: str, phase: str, flop: PassFlop | None) -> Part:
        """All forwards and backwards within a phase in one part."""
        forward, backward = part(phase, FORWARD), part(phase, BACKWARD)
        there, back = self._passes.rows[forward], self._passes.rows[backward]
        return Part(
            name=name,
            seconds=self.clock.seconds[forward] + self.clock.seconds[backward],
            passes=there + back,
            flop=None if flop is None else there * flop.forward + back * flop.backward,
        )

    def _plain(self, phase: str) -> Part:
        return Part(name=phase, seconds=self.clock.seconds[phase])

    def _attacking(self) -> list[Part]:
        """Forward, backward, and the attack's own arithmetic."""
        seen, precision = self._view, "float32"
        if isinstance(seen, View):
            precision = seen.choices.precision
            if seen.choices.compiled:
                # No counter looks into compiled code; what it computes is the same.
                seen = FastView(seen.original, replace(seen.choices, compiled=False))
        with evaluating(seen):
            flop = image_pass_flop(seen, self._probe)
        parts = []
        for direction in (FORWARD, BACKWARD):
            name = part(ATTACK, direction)
            rows = self._passes.rows[name]
            parts.append(
                Part(
                    name=name,
                    seconds=self.clock.seconds[name],
                    passes=rows,
                    flop=None if flop is None else rows * getattr(flop, direction),
                    precision=precision,
                )
            )
        return [*parts, Part(name="attack, other", seconds=self.clock.seconds[ATTACK])]


@dataclass(frozen=True, kw_only=True)
class ClockedObjective:
    """An objective that tells the clock which of its two phases runs."""

    objective: Objective
    clock: PhaseClock

    def attack(self, view: nn.Module, batch: Batch, step: StepContext) -> dict[str, Variant]:
        with self.clock.during(ATTACK):
            return self.objective.attack(view, batch, step)

    def loss(
        self, model: nn.Module, batch: Batch, variants: Mapping[str, Variant], step: StepContext
    ) -> ObjectiveOutput:
        # Until the step ends: backward and the optimiser are part of the update.
        self.clock.switch(UPDATE)
        return self.objective.loss(model, batch, variants, step)


@dataclass(frozen=True, kw_only=True)
class ClockedAttack:
    """An attack that tells the clock when it runs, and keeps its seconds under its name."""

    name: str
    attack: Attack
    meter: Meter

    @property
    def provides(self) -> frozenset[str]:
        return self.attack.provides

    @property
    def needs_clean(self) -> bool:
        return self.attack.needs_clean

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels,
        *,
        noise: NoiseLike = None,
        clean_logits: Logits | None = None,
    ) -> Variant:
        clock = self.meter.clock
        former = clock.switch(ATTACK)
        before = clock.total
        variant = self.attack(model, images, labels, noise=noise, clean_logits=clean_logits)
        clock.switch(former)
        self.meter.by_attack[self.name] += clock.total - before
        return variant


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])])
        for first, *rest in lines
    ]


def _kilobytes(count: int) -> str:
    return f"{count / 1000:,.1f} kB"
