"""The norms of threats, and the spellings of a threat: as users type it, and as results store it.

Nothing here loads torch. A new norm is a row here, and a ball in another file of this folder.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lrat.errors import SettingError
from lrat.text import shown


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A norm: ``text`` as users type it, ``name`` of its ball's class, ``symbol`` in figures.

    ``order``: p of the p-norm. ``largest``: the largest radius that its ball takes.
    """

    text: str
    name: str
    symbol: str
    order: float
    largest: float

    def threat(self, epsilon: float) -> str:
        """The only spelling of a threat: ``linf:0.20`` and ``linf:51/255`` are ``linf:0.2``."""
        if float(f"{epsilon:g}") == epsilon:
            return f"{self.text}:{epsilon:g}"
        levels = round(epsilon * 255)
        return f"{self.text}:{f'{levels}/255' if levels / 255 == epsilon else repr(epsilon)}"


LINF = Norm(text="linf", name="Linf", symbol="L∞", order=math.inf, largest=1.0)
L2 = Norm(text="l2", name="L2", symbol="L2", order=2, largest=30.0)
NORMS: Mapping[str, Norm] = {norm.text: norm for norm in (LINF, L2)}


def threat_parts(text: str) -> tuple[Norm, float]:
    """The norm and the radius of ``linf:8/255`` or ``l2:0.5``. Raises SettingError."""
    name, _, radius = text.partition(":")
    if name not in NORMS or not radius:
        raise SettingError(f"threat {shown(text)}: write linf:8/255, linf:0.1 or l2:0.5")
    numerator, _, denominator = radius.partition("/")
    try:
        epsilon = float(numerator) / (float(denominator) if denominator else 1.0)
    except (ValueError, ZeroDivisionError):
        epsilon = math.nan
    if math.isnan(epsilon):
        raise SettingError(f"threat {shown(text)}: {shown(radius)} is no number like 8/255 or 0.1")
    if epsilon > NORMS[name].largest:
        raise SettingError(
            f"threat {shown(text)}: epsilon is in [0, 1] pixel units; {name}:{radius}/255 was "
            "probably meant"
        )
    return NORMS[name], epsilon


def stored_threat(described: str) -> str | None:
    """``linf:8/255``, as users type it, from the stored ``Linf(epsilon=8/255)``; None for another
    region."""
    for norm in NORMS.values():
        radius = described.removeprefix(f"{norm.name}(epsilon=").removesuffix(")")
        if described == f"{norm.name}(epsilon={radius})":
            return f"{norm.text}:{radius}"
    return None
