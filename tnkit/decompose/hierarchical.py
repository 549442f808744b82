"""Tree networks of a dense array, leaves first: by ranks, by an error, by a size.

Every edge is cut once by an orthogonal projection of what the ones before have left (Grasedyck 2010,
doi:10.1137/090764189), so the squared errors add up exactly (see `nested`). By error or size: first a rough tree at a
tighter tolerance; in it all spectra are known, and the ranks are chosen together (`formats.rank_plan`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt

import torch
from torch import Tensor

from tnkit.decompose.allowance import allowed2, floor2, known_error
from tnkit.decompose.base import Fit, Problem, Target
from tnkit.decompose.nested import Nested, project_nested
from tnkit.decompose.rough import SMALL, Rough, budget_caps
from tnkit.decompose.st_hosvd import compress_tucker
from tnkit.formats import TuckerSpec
from tnkit.formats.rank_plan import RankPlan
from tnkit.formats.trees import absorb, tree_of
from tnkit.network import Topology

__all__ = ["fit_tree"]

_LARGE = 4_000_000  # entries up to which the tree of a Tucker core is exact


def fit_tree(problem: Problem) -> Fit:
    """The network of an array over the tree of the problem's layout."""
    layout, target = problem.layout, problem.target
    ranks = problem.max_ranks
    if target.eps is not None or target.max_params is not None:
        with torch.no_grad():
            fit = _within(problem)
        if not (problem.x.requires_grad and torch.is_grad_enabled()):
            return fit
        ranks = layout.ranks_of(fit.tensors)
    done = _by_ranks(problem, ranks)
    return Fit(tuple(done.tensors), known_error(problem, done.lost2, done.certain))


def _by_ranks(problem: Problem, ranks: tuple[int, ...]) -> Nested:
    layout = problem.layout
    limits = dict(zip(layout.bonds, ranks, strict=True))
    return project_nested(problem.x, tree_of(layout.topology), limits, problem.norm**2, problem.rng)


def _within(problem: Problem) -> Fit:
    """First a rough tree, then all ranks together in it.

    A large array is first reduced to a Tucker core. What that loses lies outside of the range of its factors, and all
    that follows inside, so the squared errors add up exactly.
    """
    layout, target = problem.layout, problem.target
    x, factors, norm2, outside2 = problem.x.detach(), None, problem.norm**2, 0.0
    caps, error2, tree = problem.max_ranks, allowed2(problem), tree_of(problem.layout.topology)
    if error2 is not None and x.numel() > SMALL:
        tucker = compress_tucker(replace(problem, layout=TuckerSpec().layout(x.shape), target=Target(eps=target.eps)))
        x, factors, outside2 = tucker.core, tucker.factors, tucker.lost2
        error2, norm2 = max(error2 - outside2, floor2(problem)), max(norm2 - outside2, 0.0)
    small = x.numel() <= (SMALL if factors is None else _LARGE)
    if error2 is None and target.max_params is not None and not small:
        caps = budget_caps(caps, target.max_params, layout.n_params)
    rough = Rough(error2, floor2(problem), max(1, len(tree.bonds)), small, problem.rng)
    limits = dict(zip(layout.bonds, caps, strict=True))
    first = project_nested(x, tree, limits, norm2, problem.rng, rough=rough)
    nodes = first.tensors if factors is None else _with_factors(tree.topology, first.tensors, factors)
    plan = RankPlan(tree, nodes, layout.bonds, caps=caps, max_params=target.max_params, thorough=True)
    if error2 is None:
        done = plan.best(None)
    else:
        # what the rough tree loses and what is cut from it need not be at right angles: their roots add up
        done = plan.best(max(sqrt(error2) - sqrt(min(first.lost2, error2)), 0.0) ** 2)
    exact = first.lost2 <= 1e-5 * done.lost2
    return Fit(done.tensors, known_error(problem, done.lost2 + first.lost2 + outside2, exact))


def _with_factors(topology: Topology, nodes: Sequence[Tensor], factors: Sequence[Tensor]) -> list[Tensor]:
    """The network of a Tucker core as that of the array: each open label multiplied by its factor."""
    done = list(nodes)
    for label, factor in zip(topology.output, factors, strict=True):
        (k,) = topology.nodes_of(label)
        done[k] = absorb(done[k], topology.inputs[k].index(label), factor)
    return done
