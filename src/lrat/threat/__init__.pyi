from lrat.threat.base import Ball, Projection, Region, per_image
from lrat.threat.l2 import L2
from lrat.threat.linf import Linf
from lrat.threat.text import BALL, REGION, BallLike, RegionLike, as_ball, parse

__all__ = [
    "BALL",
    "L2",
    "REGION",
    "Ball",
    "BallLike",
    "Linf",
    "Projection",
    "Region",
    "RegionLike",
    "as_ball",
    "parse",
    "per_image",
]
