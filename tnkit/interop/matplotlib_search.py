"""Pictures of searches with matplotlib: `import tnkit.interop.matplotlib`, then `found.plot()` and `found.best.plot()`.

Example:
    >>> import tnkit as tk, tnkit.interop.matplotlib
    >>> found = tk.search(tk.random_format("tt", (5, 6, 5), 2, rng=0).to_dense(), eps=1e-3, strategy="trees")
    >>> found.plot().axes[0].get_ylabel(), len(found.best.plot().axes)
    ('relative error', 1)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import cos, log10, pi, sin

import numpy as np

from tnkit.errors import MissingExtraError
from tnkit.formats import Tensorized
from tnkit.network import Topology
from tnkit.search import Candidate, SearchResult

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError("matplotlib is not installed. Install it with: pip install 'tnkit[plot]'.") from error

__all__ = ["plot_front", "plot_network"]

_GREEN, _GREY = "#0b6e4f", "#b8b8b8"
_STEPS = 300  # of the springs that place the nodes


def plot_front(found: SearchResult) -> Figure:
    """The front of a search as steps, all that was tried as points, the best marked, what was asked as a line."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*_points(found.tried), s=14, color=_GREY, label="tried")
    sizes, errors = _points(found.front)
    axes.plot(sizes, errors, "o-", color=_GREEN, drawstyle="steps-post", markersize=4, label="front")
    best = _points([found.best])
    axes.scatter(*best, s=90, facecolor="none", edgecolor="black", label=f"best: {found.best.label}"[:60])
    if found.eps:
        axes.axhline(found.eps, color="black", linewidth=0.7, linestyle="--", label=f"asked: {found.eps:g}")
    for what, least in found.bounds[:1]:
        axes.axvline(least, color=_GREEN, linewidth=0.7, linestyle=":", label=f"{what}: at least {least:,}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("numbers")
    axes.set_ylabel("relative error")
    axes.legend(fontsize=7)
    return figure


def _points(candidates: Sequence[Candidate]) -> tuple[list[int], list[float]]:
    """Errors of nothing are drawn where rounding is."""
    return [c.fit.n_params for c in candidates], [max(c.fit.rel_error, 1e-16) for c in candidates]


def plot_network(candidate: Candidate) -> Figure:
    """A network: a circle for each node, its modes in it, lines as thick as the logarithm of the ranks."""
    value = candidate.fit.tensor
    value = value.format if isinstance(value, Tensorized) else value
    topology = value.topology()
    sizes = topology.sizes([t.shape for t in value.tensors()])
    bonds = _bonds(topology, sizes)
    count = len(topology.inputs)
    places = _places(count, [(a, b) for a, b, _ in bonds])
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    for a, b, rank in bonds:
        (xa, ya), (xb, yb) = places[a], places[b]
        axes.plot([xa, xb], [ya, yb], color=_GREY, linewidth=1 + 1.5 * log10(max(rank, 1)), zorder=1)
        axes.annotate(str(rank), ((xa + xb) / 2, (ya + yb) / 2), fontsize=8, ha="center", va="center")
    for node, own in enumerate(topology.inputs):
        modes = [f"{label}:{sizes[label]}" for label in own if label in topology.output]
        x, y = places[node]
        axes.scatter([x], [y], s=900 + 300 * len(modes) if modes else 120, color=_GREEN if modes else "black", zorder=2)
        if modes:
            axes.annotate("\n".join(modes), (x, y), color="white", fontsize=7, ha="center", va="center")
    axes.set_title(f"{candidate.fit.n_params:,} numbers, error {candidate.fit.rel_error:.3g}", fontsize=9)
    axes.margins(0.15)
    axes.set_axis_off()
    return figure


def _bonds(topology: Topology, sizes: Mapping[str, int]) -> list[tuple[int, int, int]]:
    """Two nodes and a rank; a label on several nodes joins all of them to the first."""
    found = []
    for label in topology.internal:
        first, *others = topology.nodes_of(label)
        found += [(first, other, sizes[label]) for other in others]
    return found


def _places(count: int, bonds: Sequence[tuple[int, int]]) -> list[tuple[float, float]]:
    """Nodes pushed apart, and pulled together by bonds, from a circle; the same every time."""
    at = np.array([[cos(2 * pi * k / count), sin(2 * pi * k / count)] for k in range(count)])
    for step in range(_STEPS):
        apart = at[:, None] - at[None]
        far2 = (apart**2).sum(-1) + 1e-3
        force = (apart / far2[..., None]).sum(1) * 0.3
        for a, b in bonds:
            pull = at[b] - at[a]
            force[a] += pull
            force[b] -= pull
        at = at + 0.1 * (1 - step / _STEPS) * force
    return [(float(x), float(y)) for x, y in at]
