"""How the report writes numbers."""

import math

from lrat import text
from lrat.evaluation.statistics import Proportion
from lrat.text import DASH

MINUS = "−"


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction in per cent without the sign: ``66.9``; a dash for what is not known."""
    if fraction is None or not math.isfinite(fraction):
        return DASH
    return f"{100 * fraction:.{digits}f}"


def interval(share: Proportion) -> str:
    """The ends of a share's interval in per cent: ``[61.9, 71.6]``."""
    return f"[{percent(share.low)}, {percent(share.high)}]"


def points(difference: float | None) -> str:
    """A difference of two fractions in percentage points, always with its sign: ``+8.3``."""
    if difference is None or not math.isfinite(difference):
        return DASH
    written = f"{abs(100 * difference):.1f}"
    if written == "0.0":
        return "0.0"
    return f"{'+' if difference > 0 else MINUS}{written}"


def p_value(p: float | None) -> str:
    """``.031``; ``< .0001`` where more digits would say nothing."""
    if p is None or not math.isfinite(p):
        return DASH
    if p < 0.0001:
        return "< .0001"
    if p >= 0.9995:
        return "1"
    return f"{p:.4f}".removeprefix("0") if p < 0.001 else f"{p:.3f}".removeprefix("0")


def number(value: float | None) -> str:
    """A count or a mean to read: thousands apart, three significant digits below ten."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == int(value):
        written = f"{int(value):,}"
    elif abs(value) < 10:
        written = f"{value:.3g}"
    elif abs(value) < 1000:
        written = f"{value:.1f}"
    else:
        written = f"{value:,.0f}"
    return written.replace("-", MINUS)


def duration(seconds: float | None) -> str:
    """``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    return text.duration(seconds)


def counted(count: int, noun: str) -> str:
    """``1 run``, ``7 runs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def day(moment: str) -> str:
    """An ISO 8601 moment to the minute, as ``2026-03-01 12:00``; anything else as it is."""
    date, apart, time = moment.partition("T")
    return f"{date} {time[:5]}" if apart and len(time) >= 5 else moment
