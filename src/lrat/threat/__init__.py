"""Threat models: balls around a clean image, always intersected with the box [0, 1].

Epsilon is in [0, 1] pixel units (8/255, never 8). A new norm is one file here, and a row in
``text``.
"""

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
