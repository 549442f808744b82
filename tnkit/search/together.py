"""Many starts of one small graph at once: alternating least squares over a batch.

A fit of a graph with loops depends on its start: one in two or three ends in a valley. For a small array a sweep takes
as long as its calls, so a dozen starts cost hardly more than one when each call serves all of them. Every start has its
own extrapolation (Ang, Cohen, Gillis, Hien, doi:10.1137/19M1288395). Starts that stay behind are dropped, the half of
them after few sweeps (successive halving, Jamieson & Talwalkar, arXiv 1502.07943): a start that will arrive is among
the better ones early, and one in thirty that arrives is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod, sqrt

import torch
from torch import Tensor

from tnkit.decompose import Problem
from tnkit.linalg.lstsq import solve_gram
from tnkit.network import ContractionPlan, Topology, plan
from tnkit.rng import normal
from tnkit.solvers import Control

__all__ = ["fit_together", "suits"]

_START = "start of a batch"
_LARGE = 2**20  # entries of the array times starts, beyond which a batch gains nothing
_FEW = 4  # starts, below which a batch gains nothing
_HALVE = (10, 20, 45, 90)  # sweeps after which the worse half of the starts is dropped
_STALLED, _WINDOW = 3e-3, 15  # a start has ended when its error falls by less than this share over so many sweeps


def suits(problem: Problem, ranks: Sequence[int], count: int) -> bool:
    """Whether a batch is the better way: a small real array, each mode on one node, small least-squares problems."""
    topology = problem.layout.topology
    if problem.x.is_complex() or any(c is not None for c in topology.constants):
        return False
    widest = max(prod(shape) for shape in problem.layout.shapes(ranks))
    return _at_once(problem) >= min(count, _FEW) and widest <= 4096


def _at_once(problem: Problem) -> int:
    """Starts of a batch at the most."""
    return _LARGE // problem.x.numel()


@dataclass(slots=True, eq=False)
class _Batch:
    """Starts in progress; nodes are (starts, …)."""

    nodes: list[Tensor]
    before: list[Tensor]
    errors: Tensor
    pace: Tensor
    most: Tensor

    def keep(self, picks: Tensor) -> None:
        """Drop the others."""
        self.nodes, self.before = [t[picks] for t in self.nodes], [t[picks] for t in self.before]
        self.errors, self.pace, self.most = self.errors[picks], self.pace[picks], self.most[picks]


class _Sweeper:
    """The least-squares problems of all nodes, for all starts."""

    def __init__(self, x: Tensor, topology: Topology, norm: float, shapes: Sequence[Sequence[int]], count: int) -> None:
        self.x, self.norm2, self.topology = x, norm**2, topology
        self.inputs, self.output = topology.inputs, topology.output
        self.rhs = list[ContractionPlan]()
        self.gram = list[ContractionPlan]()
        self.pair = list[ContractionPlan]()
        self.bonds = list[tuple[tuple[str, ...], tuple[str, ...]]]()
        for k, own in enumerate(self.inputs):
            bond = tuple(label for label in own if label not in self.output)
            free = tuple(label for label in own if label in self.output)
            others = [j for j in range(len(self.inputs)) if j != k]
            rest = [(_START, *self.inputs[j]) for j in others]
            given = [shapes[j] for j in others]
            rhs = Topology((*rest, self.output), (_START, *bond, *free))
            self.rhs.append(plan(rhs, [*((count, *g) for g in given), x.shape], optimize="greedy"))
            doubled = [self._doubled(j) for j in others]
            gram = Topology(tuple(doubled), (_START, *(label + "'" for label in bond), *bond))
            sides = [
                [n for n, label in zip(shapes[j], self.inputs[j], strict=True) if label not in self.output]
                for j in others
            ]
            self.gram.append(plan(gram, [(count, *side, *side) for side in sides], optimize="greedy"))
            mine = (_START, *own), (_START, *(label if label in self.output else label + "'" for label in own))
            self.pair.append(plan(Topology(mine, self._doubled(k)), [(count, *shapes[k])] * 2))
            self.bonds.append((bond, free))

    def _doubled(self, k: int) -> tuple[str, ...]:
        """The labels of a node contracted with itself over its modes: its bonds, one side of them primed."""
        bond = [label for label in self.inputs[k] if label not in self.output]
        return (_START, *(label + "'" for label in bond), *bond)

    def sweep(self, nodes: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Each node once; the relative error of each start."""
        nodes, share = list(nodes), self.x.new_ones(len(nodes[0]))
        pairs = [own.run([t, t]) for own, t in zip(self.pair, nodes, strict=True)]
        for k in range(len(nodes)):
            others = [t for j, t in enumerate(nodes) if j != k]
            bond, free = self.bonds[k]
            rhs = self.rhs[k].run([*others, self.x])
            gram = self.gram[k].run([pair for j, pair in enumerate(pairs) if j != k])
            sizes = dict(zip(self.inputs[k], nodes[k].shape[1:], strict=True))
            width = prod(sizes[label] for label in bond)
            g = gram.reshape(-1, width, width)
            right = rhs.reshape(len(g), width, -1)
            order = [self.inputs[k].index(label) + 1 for label in (*bond, *free)]
            old = nodes[k].permute(0, *order).reshape(right.shape)
            pull = 1e-13 * g.diagonal(dim1=-2, dim2=-1).mean(-1)
            theta = solve_gram(g, right + pull[:, None, None] * old, pull)
            share = 1.0 - (2 * (right * theta).sum((1, 2)) - (theta * (g @ theta)).sum((1, 2))) / self.norm2
            # all nodes of about one norm, so that no problem is scaled badly
            back = [0, *(1 + [*bond, *free].index(label) for label in self.inputs[k])]
            nodes[k] = theta.reshape(len(g), *(sizes[label] for label in (*bond, *free))).permute(back)
            pairs[k] = self.pair[k].run([nodes[k], nodes[k]])
        norms = torch.stack([t.flatten(1).norm(dim=1).clamp_min(1e-300) for t in nodes])
        level = norms.log().mean(0).exp()
        nodes = [t * (level / n).reshape(-1, *(1 for _ in t.shape[1:])) for t, n in zip(nodes, norms, strict=True)]
        return nodes, share.clamp_min(0).sqrt()


def fit_together(
    problem: Problem,
    ranks: Sequence[int],
    given: Sequence[Sequence[Tensor]],
    goal: float | None,
    *,
    steps: int,
    count: int,
    control: Control,
) -> tuple[tuple[Tensor, ...], float]:
    """The best of many starts.

    Args:
        problem: a small one, see `suits`.
        ranks: one a bond.
        given: tensors of starts; the others are random.
        goal: a relative error at which to stop.
        steps: sweeps at the most.
        count: starts in all; of an array that is not small there are fewer.
        control: the deadline.

    Returns:
        Tensors and their relative error, true to about 1e-7.
    """
    x, rng, shapes = problem.x, problem.rng, problem.layout.shapes(tuple(ranks))
    count = max(1, min(count, _at_once(problem)))
    given = given[:count]
    sweeper = _Sweeper(x, problem.layout.topology, problem.norm, shapes, count)
    drawn = count - len(given)
    inner = prod(ranks)
    scale = (problem.norm / sqrt(x.numel() * inner)) ** (1 / len(shapes))
    nodes = [normal((drawn, *shape), x, rng) * scale for shape in shapes]
    if given:
        nodes = [torch.cat([torch.stack(same), t]) for same, t in zip(zip(*given, strict=True), nodes, strict=True)]
    batch = _Batch(nodes, nodes, x.new_full((count,), inf), x.new_full((count,), 0.3), x.new_ones(count))
    best, least, past = tuple(t[0] for t in nodes), inf, list[Tensor]()
    target = 1e-7 if goal is None else max(goal, 1e-7)
    for step in range(1, steps + 1):
        _advance(sweeper, batch)
        at = int(batch.errors.argmin())
        if float(batch.errors[at]) < least:
            least, best = float(batch.errors[at]), tuple(t[at] for t in batch.nodes)
        if least <= target or control.out_of_time:
            break
        if step in _HALVE and len(batch.errors) > 2:
            picks = batch.errors.argsort()[: (len(batch.errors) + 1) // 2]
            batch.keep(picks)
            past = [errors[picks] for errors in past]
        past.append(batch.errors)
        if len(past) > _WINDOW:
            moving = batch.errors < past.pop(0) * (1 - _STALLED)
            if not bool(moving.any()):
                break
            if not bool(moving.all()) and len(batch.errors) > 1:
                batch.keep(moving)
                past = [errors[moving] for errors in past]
    return tuple(t.contiguous() for t in best), least


def _advance(sweeper: _Sweeper, batch: _Batch) -> None:
    """One sweep of each start from its extrapolated point; a start that loses by it goes back and slows down."""

    def along(v: Tensor, t: Tensor) -> Tensor:
        return v.reshape(-1, *(1 for _ in t.shape[1:]))

    ahead = [t + along(batch.pace, t) * (t - b) for t, b in zip(batch.nodes, batch.before, strict=True)]
    made, errors = sweeper.sweep(ahead)
    good = errors <= batch.errors
    batch.before = batch.nodes
    batch.nodes = [torch.where(along(good, t), m, t) for m, t in zip(made, batch.nodes, strict=True)]
    batch.errors = torch.where(good, errors, batch.errors)
    batch.most = torch.where(good, torch.clamp(1.01 * batch.most, max=1.0), batch.pace)
    batch.pace = torch.where(good, torch.minimum(1.05 * batch.pace, batch.most), batch.pace / 1.5)
