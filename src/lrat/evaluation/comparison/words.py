"""Differences, intervals and p values as they are printed, and what not seeing one means."""

import textwrap
from collections.abc import Iterable, Mapping

from lrat.text import SMALLEST_P

WIDTH = 100


def paragraph(beginning: str, parts: Iterable[str]) -> list[str]:
    """``beginning: part, part.`` in lines of at most 100 columns; nothing without parts."""
    listed = ", ".join(parts)
    if not listed:
        return []
    return textwrap.wrap(f"{beginning}: {listed}.", WIDTH, break_on_hyphens=False)


def better_by(better: str, worse: str) -> str:
    return f"{better} is better than {worse} by this many points"


def not_told_apart(names: tuple[str, str], size: str) -> str:
    """How a list of rows without a verdict begins."""
    first, second = names
    return (
        f"{first} and {second} cannot be told apart at {size}, where differences below about this "
        "many points would not show"
    )


def not_compared(group: str, first: str) -> str:
    return (
        f"{group} and {first} cannot be compared, for want of images in common and of two runs on "
        "each side that differ"
    )


def by_points(values: Mapping[str, float]) -> list[str]:
    """``["pgd-20 7.7", ...]``: percentage points of the positive ones among fractions by row."""
    return [f"{name} {100 * value:.1f}" for name, value in values.items() if value > 0]


def untold(row: str, names: tuple[str, str], size: str, detectable: float) -> str:
    """What to say where two cannot be told apart: which difference would have shown."""
    first, second = names
    return (
        f"{row}: {first} and {second} cannot be told apart at {size}: differences below about "
        f"{100 * detectable:.1f} points would not show"
    )


def points(difference: float) -> str:
    """``+3.10``: a difference of fractions in percentage points."""
    return f"{100 * difference:+.2f}"


def interval(low: float | None, high: float | None) -> str:
    """``-0.52 to +6.71`` in percentage points; a dash where there is none."""
    return "–" if low is None or high is None else f"{points(low)} to {points(high)}"


def p_in_words(p: float) -> str:
    """``p = 0.031``; ``p < 1e-12`` where p is a bound alone."""
    return f"p = {p:.2g}" if p > SMALLEST_P else f"p < {SMALLEST_P:g}"


def written_p(p: float) -> str:
    """``0.0431``, ``<.0001``."""
    return f"{p:.4f}" if p >= 1e-4 else "<.0001"
