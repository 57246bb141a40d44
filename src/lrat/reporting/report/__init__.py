"""The report: one HTML page of what runs have stored, which opens from disk without a network."""

from lrat.reporting.report.page import render_report, write_report
from lrat.reporting.report.records import ReportRecord

__all__ = ["ReportRecord", "render_report", "write_report"]
