"""The report: one HTML page of what runs have stored, which opens from disk without a network.

``collect`` reads run folders, ``page`` draws; nothing here loads torch.
"""

from lrat.reporting.report.page.render import render_report, write_report
from lrat.reporting.report.records import ReportRecord
from lrat.reporting.report.write import Written, write_run_report

__all__ = ["ReportRecord", "Written", "render_report", "write_report", "write_run_report"]
