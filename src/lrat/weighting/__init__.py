"""Weightings: from the evidence on a variant to its weight in the objective."""

from lrat.weighting.base import Evidence, Uniform, Weighting
from lrat.weighting.geometry import GeometryTanh
from lrat.weighting.margin import MarginPower

__all__ = ["Evidence", "GeometryTanh", "MarginPower", "Uniform", "Weighting"]
