"""The mean of several networks, written as one network.

Fits of different structures, and of one structure from different starts, err differently where nothing was observed, so
their weighted mean is nearer to it than any of them. The mean is a dense array; a network of the first one's structure
is fitted to it, with ranks that grow until the entries that were held out say that it is as good.

References: Hansen and Salamon 1990, doi:10.1109/34.58871 (means of fits from several starts); Caruana, Niculescu-Mizil,
Crew and Ksikes 2004, doi:10.1145/1015330.1015432 (members chosen one by one on held-out data); Bucila, Caruana and
Niculescu-Mizil 2006, doi:10.1145/1150402.1150464 (one model that stands for many).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import hypot, prod

import torch
from torch import Tensor

from tnkit.network import contract
from tnkit.search.graph import Graph
from tnkit.search.ladder import capped
from tnkit.search.objective import DenseObjective, Trial
from tnkit.search.observed import ObservedObjective
from tnkit.solvers import Control

__all__ = ["Mean", "is_small", "is_sound", "mean_of", "one_network", "soundest"]

#: Rounds in which a member is added (the same one may be, again), and different members at the most.
ROUNDS, MOST = 20, 8
#: Trials among which members are chosen, those of the least errors; further off than this multiple of the least: none.
POOL, FAR = 40, 1.3
#: A mean counts if it is below this share of the best error; the network for it may be worse by this.
WORTH, SLACK = 0.995, 1.004
#: An error with which there is nothing to gain; errors with what goes beyond the observed values, over the least.
EXACT, WILD = 1e-6, 1.15
#: Entries of the largest array that is made dense.
LARGEST = 2**23
_STEPS, _GROWTH, _LEAST_GAIN = 12, 1.3, 0.997


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """Networks with their weights, and the relative error of their mean on the entries that are held out."""

    members: tuple[Trial, ...]
    weights: tuple[float, ...]
    error: float


def mean_of(objective: ObservedObjective, trials: Sequence[Trial]) -> Mean | None:
    """The mean of some trials with the least held-out error; None where no mean is better than the best of them.

    Args:
        objective: that fitted them.
        trials: any.
    """
    pool = sorted({id(t): t for t in trials}.values(), key=lambda t: t.error)[:POOL]
    pool = [t for t in pool if t.error <= FAR * pool[0].error]
    if len(pool) < 2 or pool[0].error <= EXACT:
        return None
    off = torch.stack([objective.misfit(t.graph, t.tensors, objective.held) for t in pool])
    gram, open_ones, known = off @ off.mT, list(range(len(pool))), dict[int, float]()
    while open_ones:
        counts = _counts(gram[open_ones][:, open_ones])
        chosen = [k for k, count in zip(open_ones, counts, strict=True) if count]
        known |= {k: whole_error(objective, pool[k]) for k in {*chosen, open_ones[0]} if k not in known}
        least = min(known.values())
        wild = [k for k in open_ones if known.get(k, 0.0) > WILD * max(least, pool[k].error)]
        if not wild:
            weights = [count / sum(counts) for count in counts if count]
            error = float((torch.tensor(weights, dtype=off.dtype, device=off.device) @ off[chosen]).norm())
            alone = min(pool[k].error for k in open_ones)
            return Mean(tuple(pool[k] for k in chosen), tuple(weights), error) if error <= WORTH * alone else None
        open_ones = [k for k in open_ones if k not in wild]
    return None


def whole_error(objective: ObservedObjective, trial: Trial) -> float:
    """Its error and how far values go beyond those observed; what is held out does not show a few that are far off."""
    return hypot(trial.error, objective.beyond(contract(trial.graph.topology, list(trial.tensors))))


def is_sound(objective: ObservedObjective, trial: Trial, tensors: tuple[Tensor, ...]) -> bool:
    """Whether other tensors of a trial, of the same graph, go no further beyond what was observed."""
    return whole_error(objective, replace(trial, tensors=tensors)) <= WILD * whole_error(objective, trial)


def soundest(objective: ObservedObjective, trials: Sequence[Trial]) -> Trial:
    """The trial of the least whole error, among those of the least errors."""
    ranked = sorted({id(t): t for t in trials}.values(), key=lambda t: t.error)
    return ranked[0] if ranked[0].error <= EXACT else min(ranked[:MOST], key=lambda t: whole_error(objective, t))


def _counts(gram: Tensor) -> list[int]:
    """How often each is in the mean: one is added at a time, that with which the error is least."""
    n = gram.shape[0]
    counts, rows, square = [0] * n, gram.new_zeros(n), 0.0  # Σ_j c_j G_kj, and cᵀ G c
    best, least = list(counts), float("inf")
    for taken in range(1, ROUNDS + 1):
        free = [k for k in range(n) if counts[k] or sum(map(bool, counts)) < MOST]
        after = {k: square + 2 * float(rows[k]) + float(gram[k, k]) for k in free}
        k = min(after, key=lambda j: after[j])
        counts[k], square, rows = counts[k] + 1, after[k], rows + gram[k]
        if square / taken**2 < least:
            best, least = list(counts), square / taken**2
    return best


def one_network(
    objective: ObservedObjective, mean: Mean, control: Control, most: int
) -> tuple[Trial, tuple[Tensor, ...] | None]:
    """A network that stands for the mean, and the same for members that are fitted to all entries.

    Args:
        objective: that fitted the members.
        mean: of networks.
        control: deadline.
        most: entries of the network.

    Returns:
        The network with its error on what is held out, and the tensors for all entries, of the same graph; None for
        them where time ended before.

    Cost: dense fits of an array of the shape of the graphs; for all entries, one fit of each member.
    """
    first = max(zip(mean.weights, mean.members, strict=True), key=lambda pair: pair[0])[1]
    whole = _dense(mean, [t.tensors for t in mean.members])
    found = _written(objective, mean, whole, first, control, most)
    objective.control = control.within(control.deadline - time.monotonic() - 2 * found.seconds)  # for the last fit
    again, stopped = [], False
    for member in mean.members:
        stopped = stopped or objective.control.out_of_time
        tensors, error = (member.tensors, 0.0) if stopped else objective.refit(member)
        sound = stopped or is_sound(objective, member, tensors)
        again.append(tensors if sound and error <= max(2 * member.error, 1e-3) else member.tensors)
    if stopped and all(a is b.tensors for a, b in zip(again, mean.members, strict=True)):
        return found, None
    dense = _dense(mean, again)
    trial = _fitted(objective, dense, found.graph, found, control, 2 * _STEPS)
    return found, trial.tensors


def _dense(mean: Mean, tensors: Sequence[Sequence[Tensor]]) -> Tensor:
    total: Tensor | None = None
    for weight, member, own in zip(mean.weights, mean.members, tensors, strict=True):
        part = weight * contract(member.graph.topology, list(own))
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def _written(
    objective: ObservedObjective, mean: Mean, dense: Tensor, first: Trial, control: Control, most: int
) -> Trial:
    """The structure of a member at growing ranks, until what is held out is met as well as by the mean."""
    best, graph = first, first.graph
    while True:
        graph = _larger(graph)
        if graph.key == best.graph.key or graph.n_params > most:
            return best
        before, last = best.error, best
        trial = _fitted(objective, dense, graph, last, control, _STEPS)
        best = min(best, trial, key=lambda t: t.error)
        if best.error <= SLACK * mean.error or best.error > _LEAST_GAIN * before or control.out_of_time:
            return best


def _larger(graph: Graph) -> Graph:
    return capped(graph, Graph(graph.shape, graph.nodes, {b: round(_GROWTH * r + 0.5) for b, r in graph.ranks.items()}))


def _fitted(
    objective: ObservedObjective, dense: Tensor, graph: Graph, start: Trial, control: Control, steps: int
) -> Trial:
    """A graph fitted to a dense array, with its error on what is held out."""
    norm = float(dense.norm()) or 1.0
    inner = DenseObjective(
        dense / norm, 1.0, eps=None, max_params=None, rng=objective.rng, control=control, bounds=False
    )
    share = norm ** (1 / len(start.tensors))
    unit = replace(start, tensors=tuple(t / share for t in start.tensors))
    fit = inner.fit(graph, unit, steps=steps)
    tensors = tuple(t * share for t in fit.tensors)
    error = float(objective.misfit(graph, tensors, objective.held).norm())
    return Trial(graph, tensors, error, fit.seconds, by="mean", effort=steps)


def is_small(shape: Sequence[int]) -> bool:
    """Whether an array of a shape may be made dense."""
    return prod(shape) <= LARGEST
