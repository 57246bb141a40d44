"""Is an accuracy under attack real, or do the attacks fail? Twelve checks of gradient masking."""

from lrat.evaluation.masking.checks import masking_panel
from lrat.evaluation.masking.panel import Check, Panel, Status

__all__ = ["Check", "Panel", "Status", "masking_panel"]
