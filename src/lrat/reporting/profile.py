"""Where the time of a run went, as a table to read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])])
        for first, *rest in lines
    ]


def _kilobytes(count: int) -> str:
    return f"{count / 1000:,.1f} kB"
