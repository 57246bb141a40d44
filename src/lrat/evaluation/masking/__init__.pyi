from lrat.evaluation.masking.checks import masking_panel
from lrat.evaluation.masking.panel import Check, Panel, Status

__all__ = ["Check", "Panel", "Status", "masking_panel"]
