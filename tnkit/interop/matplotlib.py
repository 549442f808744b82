"""matplotlib: import `tnkit.interop.matplotlib`, and what `analyze`, `compress` and `search` found can be plotted.

Example:
    >>> import torch, tnkit as tk, tnkit.interop.matplotlib
    >>> found = tk.nn.analyze(torch.nn.Sequential(torch.nn.Linear(16, 16)), measure=False)
    >>> len(found.plot().axes)
    4
"""

from __future__ import annotations

from typing import Any

from tnkit.errors import MissingExtraError
from tnkit.interop.matplotlib_search import plot_front, plot_network
from tnkit.nn import Analysis, ModelReport
from tnkit.registry import PROVIDERS
from tnkit.search import Candidate, SearchResult

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError("matplotlib is not installed. Install it with: pip install 'tnkit[plot]'.") from error

__all__ = ["plot_analysis", "plot_front", "plot_network", "plot_report"]


def plot_analysis(found: Analysis) -> Any:
    """Spectra, errors by ratio, sensitivity and time of the layers, as a Figure of four axes.

    The figure belongs to no window and no global state; `figure.savefig(path)` writes it.
    """
    figure = Figure(figsize=(12.0, 8.0), layout="constrained")
    spectra, errors, felt, times = figure.subplots(2, 2).ravel()
    for layer in found.layers:
        values = layer.seen_spectrum or layer.spectrum
        spectra.semilogy([k / len(values) for k in range(len(values))], values, lw=0.8, label=layer.name)
        known = [(r, e) for r, e in zip(found.ratios, layer.errors, strict=True) if e is not None]
        errors.plot([r for r, _ in known], [e for _, e in known], marker=".", lw=0.8)
    spectra.set(title="singular values, as the inputs see them", xlabel="share of the rank", ylim=(1e-4, 1.5))
    errors.set(title="relative error of the output", xlabel="share of the parameters")
    _bars(felt, found, [layer.sensitivity for layer in found.layers], "share of what the outputs feel")
    _bars(times, found, [layer.ms for layer in found.layers], "milliseconds on the first batch")
    if len(found.layers) <= 12:
        spectra.legend(fontsize="x-small")
    return figure


def plot_report(report: ModelReport) -> Any:
    """Parameters, errors and milliseconds of the layers before and after, as a Figure of three axes."""
    layers = [layer for layer in report.layers if layer.compressed]
    figure = Figure(figsize=(12.0, 4.5), layout="constrained")
    params, errors, times = figure.subplots(1, 3)
    places = range(len(layers))
    params.bar(places, [layer.params_before for layer in layers], color="0.8", label="before")
    params.bar(places, [layer.params_after for layer in layers], label="after")
    errors.bar(places, [layer.rel_error for layer in layers])
    times.bar(places, [layer.ms_before or 0.0 for layer in layers], color="0.8", label="before")
    times.bar(places, [layer.ms_after or 0.0 for layer in layers], width=0.5, label="after")
    for axes, title in ((params, "parameters"), (errors, "relative error"), (times, "milliseconds")):
        axes.set(title=title, xlabel="compressed layers, in order")
    params.legend()
    return figure


def _bars(axes: Any, found: Analysis, values: list[float | None], title: str) -> None:
    axes.bar(range(len(values)), [v or 0.0 for v in values])
    axes.set(title=title)
    if len(values) <= 12:
        axes.set_xticks(range(len(values)), [layer.name for layer in found.layers], rotation=90, fontsize="x-small")
    else:
        axes.set(xlabel="layers, in order")


def _plot(found: Any) -> Any:
    if isinstance(found, SearchResult):
        return plot_front(found)
    if isinstance(found, Candidate):
        return plot_network(found)
    return plot_report(found) if isinstance(found, ModelReport) else plot_analysis(found)


PROVIDERS.register("plot:matplotlib", _plot)
