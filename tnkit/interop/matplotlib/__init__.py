"""Pictures with matplotlib: once this is imported, what searches and `tk.nn` found can be plotted.

Example:
    >>> import torch, tnkit as tk, tnkit.interop.matplotlib
    >>> found = tk.nn.analyze(torch.nn.Sequential(torch.nn.Linear(16, 16)), measure=False)
    >>> len(found.plot().axes)
    4
"""

from tnkit.interop.matplotlib.layers import plot_analysis, plot_report
from tnkit.interop.matplotlib.searches import plot_front, plot_network

__all__ = ["plot_analysis", "plot_front", "plot_network", "plot_report"]
