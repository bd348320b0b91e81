"""Verdicts for people: in the terminal, and as one HTML file that opens offline.

The terminal needs only the core dependencies; `write_report` needs the extra `report`
(plotly, jinja2) and says so when they are absent.
"""

from .html import write_report
from .predictions import prediction_table
from .terminal import compare_table, show, verdict_table

__all__ = ["compare_table", "prediction_table", "show", "verdict_table", "write_report"]
