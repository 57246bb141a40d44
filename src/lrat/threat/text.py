"""A threat as a user gives it: a ball, or the text that names one."""

from typing import TYPE_CHECKING, Any, TypeAlias

from lrat import threat as balls
from lrat.checks import Rule
from lrat.errors import SettingError
from lrat.text import shown
from lrat.threat.base import Ball, Region
from lrat.threat.norms import threat_parts

if TYPE_CHECKING:
    BallLike: TypeAlias = Ball
    RegionLike: TypeAlias = Region
else:
    BallLike, RegionLike = Ball | str, Region | str
"""The type of a field that takes a ball or its text, and holds the ball."""


def _ball(threat: Any) -> Ball:
    region = _region(threat)
    if isinstance(region, Ball):
        return region
    missing = [name for name in dir(Ball) if name[0] != "_" and not hasattr(region, name)]
    raise SettingError(
        f"threat={shown(region)}: this ball lacks {', '.join(missing)}, which lrat.threat.Ball "
        "describes"
    )


BALL = Rule(_ball, "a ball, Linf(epsilon=8/255), or its text", "'linf:8/255'")


def _region(threat: Any) -> Region:
    region = parse(threat) if isinstance(threat, str) else threat
    if not isinstance(region, Region) or isinstance(region, type):
        raise TypeError
    return region


REGION = Rule(_region, "a region, Linf(epsilon=8/255), or its text", "'linf:8/255'")
"""The rules of a ``threat``, for ``lrat.checks``."""


def parse(text: str) -> Ball:
    """``linf:8/255`` or ``l2:0.5`` as a ball. Raises SettingError."""
    norm, epsilon = threat_parts(text)
    ball: Ball = getattr(balls, norm.name)(epsilon=epsilon)
    return ball


def as_ball(threat: Any) -> Ball:
    """A ball unchanged; a text as ``linf:8/255`` as a ball. Raises SettingError."""
    ball: Ball = BALL("threat", threat)
    return ball
