"""A graph fitted to observed entries by way of the whole dense tensor: quasi-Newton steps with a held-out error.

Where more than a few per cent of the entries are known, one contraction of the whole network costs far less than the
least-squares problems of all rows: at ranks of 20, by a factor of a hundred. A step of L-BFGS (Liu & Nocedal 1989,
doi:10.1007/BF01589116) needs two or three of them. The part of the loss that draws nodes to zero stands for the ridge
of alternating least squares.

Example:
    >>> from tnkit.search.graph import chain
    >>> graph = chain((4, 5), (1,))
    >>> x = torch.ones(4, 5, dtype=torch.float64)
    >>> aside = torch.arange(20) % 6 == 0
    >>> known, held = (Entries(k.nonzero().flatten(), x.flatten()[k]) for k in (~aside, aside))
    >>> start = tuple(torch.rand(s, dtype=torch.float64) for s in graph.layout().shapes(()))
    >>> tensors, error = descend_dense(graph, start, known, held, rounds=20, ridge=0.0, control=Control())
    >>> error < 1e-4
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod

import torch
from torch import Tensor

from tnkit.completion.sweep import balanced
from tnkit.network import contract, plan
from tnkit.search.graph import Graph
from tnkit.solvers import Control

__all__ = ["EACH", "Entries", "descend_dense", "is_cheaper"]

EACH = 20  # iterations of a round
_PATIENCE, _GAIN = 6, 1e-3  # rounds that gain less than this share
_MEMORY = 20  # steps that L-BFGS remembers
_NOISE = 10.0  # times the squared error: the part of the ridge that counts
_LARGEST = 2**25  # entries of the largest tensor on the way
_QUICK = 1e9  # operations of a sweep that is quick enough: sweeps find better valleys
_ITERATIONS = 4.0  # that do what a sweep does, at three contractions each


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Some entries of a dense tensor.

    Attributes:
        places: (N,) in row-major order of the graph's modes.
        values: (N,).
        root_weight: (N,) √w, or None for equal weights.
    """

    places: Tensor
    values: Tensor
    root_weight: Tensor | None = None

    def misfit(self, dense: Tensor) -> Tensor:
        """√w (x − y), (N,)."""
        off = dense.reshape(-1)[self.places] - self.values
        return off if self.root_weight is None else off * self.root_weight

    def error(self, dense: Tensor) -> float:
        """Relative."""
        known = self.values if self.root_weight is None else self.values * self.root_weight
        return float(self.misfit(dense).norm() / known.norm().clamp_min(1e-300))


def is_cheaper(graph: Graph, entries: int) -> bool:
    """Whether steps on the dense tensor cost less than a sweep over so many entries."""
    shapes = graph.layout().shapes(graph.bond_ranks())
    dense = plan(graph.topology, shapes)
    sweep = 0.0
    for node, shape in enumerate(shapes):
        own = prod(shape) // prod(graph.shape[k] for k in graph.nodes[node])
        sweep += 2.0 * entries * own**2
    return sweep > _QUICK and dense.peak_size <= _LARGEST and 3.0 * _ITERATIONS * dense.flops < sweep


def descend_dense(
    graph: Graph,
    start: Sequence[Tensor],
    known: Entries,
    held: Entries | None,
    *,
    rounds: int,
    ridge: float,
    control: Control,
) -> tuple[tuple[Tensor, ...], float]:
    """L-BFGS until the error on what is held out (or the fit itself) has settled.

    Args:
        graph: the structure.
        start: tensors of its nodes, real.
        known: what is fitted.
        held: what is measured; None for the fit itself.
        rounds: of twenty iterations, at the most.
        ridge: weight of the squares of all numbers beside those of the misfits; less where the error is small.
        control: its deadline ends the rounds.

    Returns:
        The tensors of the best round, and its relative error.
    """
    topology = graph.topology
    tensors = [t.detach().clone().requires_grad_() for t in balanced(tuple(start))]
    optimizer = torch.optim.LBFGS(
        tensors,
        max_iter=EACH,
        history_size=_MEMORY,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    count = known.values.numel()

    def step() -> Tensor:
        optimizer.zero_grad()
        value = known.misfit(contract(topology, tensors)).square().sum()
        if ridge:
            value = value + ridge * noise * torch.stack([t.square().sum() for t in tensors]).sum()
        (value / count).backward()
        return value / count

    best, least, since, noise = tuple(start), inf, 0, 1.0
    for _ in range(rounds):
        with torch.enable_grad():
            optimizer.step(step)
        with torch.no_grad():
            error = (known if held is None else held).error(contract(topology, tensors))
        noise = min(1.0, _NOISE * error**2)
        since = 0 if error < least * (1 - _GAIN) else since + 1
        if error < least:
            best, least = tuple(t.detach().clone() for t in tensors), error
        if since >= _PATIENCE or least < 1e-9 or control.out_of_time or not error < inf:
            break
    return best, least
