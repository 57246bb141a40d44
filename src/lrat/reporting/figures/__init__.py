"""Figures for papers and people, from stored records: PDF and PNG, with a caption beside them."""

from lrat.reporting.figures.drawing import Drawn
from lrat.reporting.figures.security import security_curve_figure
from lrat.reporting.figures.why import AttackPicture, PathPicture, why_figure

__all__ = ["AttackPicture", "Drawn", "PathPicture", "security_curve_figure", "why_figure"]
