"""Reports: values first, then text, JSON, markdown and HTML."""

from tnkit.report.fit import FitReport

__all__ = ["FitReport"]
