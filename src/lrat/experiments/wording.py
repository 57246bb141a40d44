"""What people write on a command line, as values."""

import re

from lrat.errors import SettingError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_in(text: str) -> float:
    """``90``, ``90s``, ``30m`` or ``2h`` in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if found is None or not float(found[1]):
        raise SettingError(f"time {text!r}: write 90s, 30m or 2h")
    return float(found[1]) * _UNITS[found[2]]


def fraction_of(text: str) -> tuple[int, int]:
    """``2/4`` as (2, 4): the second of four parts."""
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise SettingError(f"part {text!r}: write i/n with i from 1 to n, as 2/4")
    return int(found[1]), int(found[2])
