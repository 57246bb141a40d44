"""A report of runs: what they stored is collected and handed to the page; nothing loads torch."""

from lrat.reporting.report.write import Written, write_run_report

__all__ = ["Written", "write_run_report"]
