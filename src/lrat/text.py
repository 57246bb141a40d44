"""Text for one line of a terminal or a table: messages, values, numbers.

``visible``, ``cut``, ``shown``, ``in_one_line`` and ``reason`` make any text fit for a terminal;
``as_call`` prints a configured object as the call that creates it; the rest writes differences,
intervals, p values and tables.
"""

import math
import re
import reprlib
import shlex
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeGuard

_LONGEST_VALUE = 100
_LONGEST_REASON = 300
_MOST_NAMED = 6
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters except tab and line feed, and those that reverse the direction of text."""

SMALLEST_P = 1e-12
"""``sign_flip`` returns this for every p that is not larger."""

WIDTH = 100
MINUS, DASH = "−", "–"
"""Written where there is no number."""


def visible(text: str) -> str:
    r"""``text`` with its control characters written out, as ``\x1b``: a terminal obeys none."""

    def escape(match: re.Match[str]) -> str:
        code = ord(match[0])
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

    return _CONTROLS.sub(escape, text)


def storable(text: str) -> str:
    """``text`` with the bytes of a path that are not UTF-8, which no file can hold, written out."""
    return text.encode(errors="backslashreplace").decode()


def cut(text: str, most: int = _LONGEST_VALUE) -> str:
    """At most ``most`` characters of ``text``; an ellipsis replaces the rest."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


class _Brief(reprlib.Repr):
    """Short texts of values: of arrays the shape alone, of collections the first items."""

    def __init__(self) -> None:
        super().__init__()
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 3
        self.maxstring = self.maxother = self.maxlong = _LONGEST_VALUE

    def repr_instance(self, x: Any, level: int) -> str:
        shape = getattr(x, "shape", None)
        if shape and hasattr(x, "dtype"):
            return f"{type(x).__name__} {list(shape)} of {x.dtype}"
        if isinstance(x, Mapping):
            return f"{type(x).__name__}({self.repr_dict(dict(x), level)})"
        return super().repr_instance(x, level)


def shown(value: Any) -> str:
    """``value`` as a message shows it: one line of at most 100 characters, no array's contents."""
    try:
        return cut(" ".join(_Brief().repr(value).split()))
    except Exception:  # an integer of more than 4,300 digits has no text
        return f"<{type(value).__name__}>"


def in_one_line(error: BaseException) -> str:
    """``ValueError: its message``, in one line of bounded length."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    return cut(visible(text), _LONGEST_REASON)


def reason(error: BaseException) -> str:
    """The cause of an error in one line of bounded length: the system's words for an ``OSError``,
    else the message, else the kind of error."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return cut(visible(str(text)), _LONGEST_REASON) or type(error).__name__


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``2 h 05 min``; at least ``1 s``."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Plain-text columns under a header: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]])


def to_markdown(table: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    header, *lines = table
    rule = ["---", *["---:"] * (len(header) - 1)]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in (header, rule, *lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped) + "\n"


def as_call(thing: Any, *, quiet: Collection[str]) -> str:
    """``Name(field=value, ...)`` as dataclasses print themselves.

    The fields named by ``quiet`` are left out while they have their default. A field that was added
    to a class later is quiet, so that identities in older folders, which hold this text, still
    match.
    """
    arguments = [
        f"{each.name}={getattr(thing, each.name)!r}"
        for each in fields(thing)
        if each.repr and not (each.name in quiet and _is_default(thing, each))
    ]
    return f"{type(thing).__qualname__}({', '.join(arguments)})"


def as_command(*words: object, **options: Any) -> str:
    """``lrat evaluate RUN --keep-images --limit 9``, quoted for a shell.

    Of ``options``, True has no value behind it, a list or tuple is given once for each of its
    values, and None and False are left out.
    """
    line = [*words]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            line.append(option)
        elif value is not None and value is not False:
            for each in value if isinstance(value, list | tuple) else (value,):
                line += [option, each]
    return shlex.join(map(str, line))


def changed_fields(thing: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, by name."""
    return {
        each.name: getattr(thing, each.name)
        for each in fields(thing)
        if not _is_default(thing, each)
    }


def _is_default(thing: Any, each: Any) -> bool:
    default = each.default
    if default is MISSING and each.default_factory is not MISSING:
        default = each.default_factory()
    return bool(getattr(thing, each.name) == default)


def paragraph(beginning: str, parts: Iterable[str]) -> list[str]:
    """``beginning: part, part.`` in lines of at most 100 columns; nothing without parts."""
    listed = ", ".join(parts)
    if not listed:
        return []
    return textwrap.wrap(f"{beginning}: {listed}.", WIDTH, break_on_hyphens=False)


def conclusion(
    names: tuple[str, str],
    gains: Mapping[str, float],
    missed: Mapping[str, Mapping[str, float]],
) -> list[str]:
    """Lines that say which of two is better in which rows, and in which they do not differ
    significantly.

    ``gains``: the first minus the second, by row with a significant difference; ``missed``: for
    each size of a comparison, by row without one, the smallest difference that it would have
    detected. All are fractions.
    """
    first, second = names
    losses = {row: -gain for row, gain in gains.items()}
    lines = []
    for better, worse, by in ((first, second, gains), (second, first, losses)):
        lines += paragraph(f"{better} is better than {worse} by this many points", by_points(by))
    for size, detectable in missed.items():
        beginning = (
            f"{first} and {second} do not differ significantly at {size}, where differences below "
            "about this many points would not show"
        )
        lines += paragraph(beginning, by_points(detectable))
    return lines


def not_compared(group: str, first: str) -> str:
    return (
        f"{group} and {first} cannot be compared, for want of images in common and of two runs on "
        "each side that differ"
    )


def by_points(values: Mapping[str, float]) -> list[str]:
    """``["pgd-20 7.7", ...]``: the positive fractions by row, in percentage points."""
    return [f"{name} {100 * value:.1f}" for name, value in values.items() if value > 0]


def no_difference(row: str, names: tuple[str, str], size: str, detectable: float) -> str:
    """The sentence for two that do not differ significantly, with the detectable difference."""
    first, second = names
    return (
        f"{row}: {first} and {second} do not differ significantly at {size}: differences below "
        f"about {100 * detectable:.1f} points would not show"
    )


def percent(share: float | None, *, unit: str = " %") -> str:
    """``51.1 %``; a dash where there is no number."""
    return f"{100 * share:.1f}{unit}" if is_number(share) else DASH


def points(difference: float) -> str:
    """``+3.10``: a difference of fractions in percentage points."""
    return f"{100 * difference:+.2f}"


def interval(low: float | None, high: float | None) -> str:
    """``-0.52 to +6.71`` in percentage points; a dash where there is none."""
    return DASH if low is None or high is None else f"{points(low)} to {points(high)}"


def p_in_words(p: float) -> str:
    """``p = 0.031``; ``p < 1e-12`` where p is a bound alone."""
    return f"p = {p:.2g}" if p > SMALLEST_P else f"p < {SMALLEST_P:g}"


def written_p(p: float | None) -> str:
    """``0.0431``, ``<.0001``; a dash where there is none."""
    if p is None:
        return DASH
    return f"{p:.4f}" if p >= 1e-4 else "<.0001"


def is_number(value: float | None) -> TypeGuard[float]:
    """Whether there is a finite number."""
    return value is not None and math.isfinite(value)


def in_brackets(low: float, high: float) -> str:
    """``[61.9, 71.6]``: the ends of an interval of fractions, in per cent."""
    return f"[{percent(low, unit='')}, {percent(high, unit='')}]"


def signed(difference: float | None) -> str:
    """``+8.3``, ``−14.9``, ``0.0``: a difference of fractions in percentage points."""
    if not is_number(difference):
        return DASH
    written = f"{abs(100 * difference):.1f}"
    return written if written == "0.0" else f"{'+' if difference > 0 else MINUS}{written}"


def points_and_p(difference: float, p: float) -> str:
    """``5.1 points (p 0.0012)``: the size of a difference of fractions, and its p value."""
    return f"{100 * abs(difference):.1f} points (p {written_p(p)})"


def short_p(p: float | None) -> str:
    """``.031``; ``< .0001`` where more digits would say nothing."""
    if not is_number(p):
        return DASH
    if p < 1e-4:
        return "< .0001"
    return "1" if p >= 0.9995 else f"{p:.{4 if p < 0.001 else 3}f}".removeprefix("0")


def number(value: float | None) -> str:
    """A count or a mean to read: thousands apart, three significant digits below ten."""
    if not is_number(value):
        return DASH
    if value == int(value) or abs(value) >= 1000:
        written = f"{round(value):,}"
    else:
        written = f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
    return written.replace("-", MINUS)


def counted(count: int, noun: str) -> str:
    """``1 run``, ``7 runs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``; of many the first ones and how many more."""
    shown = list(names) if len(names) <= _MOST_NAMED else list(names[: _MOST_NAMED - 2])
    more = len(names) - len(shown)
    last = f"{more} more" if more else shown.pop()
    return f"{', '.join(shown)} and {last}" if shown else last
