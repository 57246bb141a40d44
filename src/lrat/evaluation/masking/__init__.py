"""Is an accuracy under attack real, or do the attacks fail? Twelve checks of gradient masking."""

from lrat.evaluation.masking.panel import Check, Panel, Status
from lrat.evaluation.masking.run import masking_panel

__all__ = ["Check", "Panel", "Status", "masking_panel"]
