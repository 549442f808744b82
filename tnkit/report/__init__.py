"""Reports: values first, then text, JSON, markdown and HTML."""

from tnkit.report.fit import FitReport
from tnkit.report.progress import listening

__all__ = ["FitReport", "listening"]
