"""Ranks of a Tucker tensor, or of any tree, by packing singular values: an integer program, and its approximation.

The squared error of a truncation is at most the sum of the tails of the unfoldings at the bonds. So the ranks are to
hold as much energy as fits a size, Σ_e Σ_{i ≤ r_e} σ²_{e,i} to be greatest under Σ_v Π_{e ∋ v} r_e n_v ≤ B, or to be
cheapest under an error (Ghadiri, Fahrbach, Fu, Mirrokni, arXiv 2302.03886: Tucker packing and tree packing; they solve
it for a grid of splits of the budget). Here a rank is chosen by 0–1 variables, so that the logarithm of a node's size
is linear in them; the size is bounded from below by tangents of the exponential, which is convex. Where the ranks of a
solution take more than the program believes, a tangent is added there, and it is solved again: what then fits is exact.
Solved by HiGHS (Huangfu & Hall, doi:10.1007/s12532-017-0130-5). The approximation is `linalg.choose_ranks`.

Example:
    >>> import numpy as np
    >>> spectra = [np.array([8.0, 4, 1]), np.array([9.0, 3, 1]), np.array([6.0, 5, 2])]
    >>> nodes = [(1, (0, 1, 2)), (5, (0,)), (5, (1,)), (5, (2,))]  # a core, and factors of five rows
    >>> packed_ranks(spectra, nodes, max_params=38)
    (2, 2, 2)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log, prod
from typing import Any, ClassVar, TypeAlias

import numpy as np
import scipy
from numpy.typing import NDArray

from tnkit.linalg import choose_ranks
from tnkit.search.graph import Graph, star
from tnkit.search.objective import DenseObjective, Trial
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting
from tnkit.search.tree_bounds import MOST_MODES, cheapest_trees
from tnkit.search.tree_fit import mask_beyond
from tnkit.search.tucker_front import TuckerFront, tucker_front

__all__ = ["PackingSearch", "packed_ranks"]

_ROUNDS = 12  # solutions with more and more tangents
_EACH = 40  # ranks of a bond that are all looked at; beyond, a part of them
_TANGENTS = 10  # of each node at first
_CLOSE = 1e-3  # how near the least size has to be to the bound
_WALK = 6  # smaller cores that are tried one after the other

Array: TypeAlias = "NDArray[Any]"
#: For each node the product of its modes, and the bonds at it.
Nodes: TypeAlias = "Sequence[tuple[int, tuple[int, ...]]]"


def packed_ranks(
    spectra: Sequence[Array],
    nodes: Nodes,
    *,
    max_params: int | None = None,
    max_error2: float | None = None,
    seconds: float = 5.0,
) -> tuple[int, ...] | None:
    """The ranks of an integer program.

    Args:
        spectra: for each bond its squared singular values, falling.
        nodes: what the size is made of.
        max_params: the size within which the energy is to be greatest.
        max_error2: or the sum of the tails within which the size is to be least.
        seconds: for each solution.

    Returns:
        ranks that keep what is asked; None if the program ended without any.
    """
    program = _Program(spectra, nodes, max_params, max_error2, seconds)
    best: tuple[float, tuple[int, ...]] | None = None
    for _ in range(_ROUNDS):
        solved = program.solve()
        if solved is None:
            break
        ranks, bound = solved
        size = _size(nodes, ranks)
        if max_params is not None:
            if size <= max_params:
                return ranks
        elif best is None or size < best[0]:
            best = (size, ranks)
        if best is not None and best[0] <= bound * (1 + _CLOSE):
            break
        program.add_tangents(ranks)
    return None if best is None else best[1]


def _size(nodes: Nodes, ranks: Sequence[int]) -> int:
    return sum(fixed * prod(ranks[e] for e in bonds) for fixed, bonds in nodes)


class _Program:
    """The integer program; it gains tangents."""

    def __init__(
        self, spectra: Sequence[Array], nodes: Nodes, max_params: int | None, max_error2: float | None, seconds: float
    ) -> None:
        self.nodes, self.max_params, self.max_error2, self.seconds = nodes, max_params, max_error2, seconds
        self.tails = [np.append(np.cumsum(np.asarray(s)[::-1])[::-1], 0.0) for s in spectra]
        self.choices = [_grid(len(s)) for s in spectra]
        self.place, width = list[slice](), 0
        for choice in self.choices:
            self.place.append(slice(width, width + len(choice)))
            width += len(choice)
        self.z, self.width = width, width + len(nodes)
        self.rows: list[tuple[Array, float, float]] = []
        for spot in self.place:
            line = np.zeros(self.width)
            line[spot] = 1
            self.rows.append((line, 1, 1))
        for v, (_, bonds) in enumerate(nodes):
            if len(bonds) == 1:
                line = np.zeros(self.width)
                line[self.place[bonds[0]]] = self.choices[bonds[0]]
                line[self.z + v] = -1
                self.rows.append((line, 0, 0))
            else:
                most = sum(log(self.choices[e][-1]) for e in bonds)
                for at in np.linspace(0.0, most, _TANGENTS):
                    self.tangent(v, float(at))
        size, lost = np.zeros(self.width), np.zeros(self.width)
        size[self.z :] = [fixed for fixed, _ in nodes]
        scale = max((float(t[0]) for t in self.tails), default=0.0) or 1.0
        for spot, choice, tail in zip(self.place, self.choices, self.tails, strict=True):
            lost[spot] = tail[choice] / scale
        if max_params is not None:
            self.rows.append((size / max_params, -inf, 1.0))
            self.cost, self.unit = lost, scale
        else:
            assert max_error2 is not None
            self.rows.append((lost * scale / max(max_error2, 1e-300), -inf, 1.0))
            self.unit = float(sum(fixed for fixed, _ in nodes))
            self.cost = size / self.unit

    def tangent(self, node: int, at: float) -> None:
        """S ≥ e^a (1 + Σ log r − a), in units that keep the coefficients small."""
        line = np.zeros(self.width)
        for e in self.nodes[node][1]:
            line[self.place[e]] -= np.log(self.choices[e])
        line[self.z + node] = exp(-at)
        self.rows.append((line, 1 - at, inf))

    def add_tangents(self, ranks: Sequence[int]) -> None:
        """Where a solution stands."""
        for v, (_, bonds) in enumerate(self.nodes):
            if len(bonds) > 1:
                self.tangent(v, sum(log(ranks[e]) for e in bonds))

    def solve(self) -> tuple[tuple[int, ...], float] | None:
        """Ranks, and a bound of what they cost."""
        solver = scipy.optimize  # SciPy loads it here, not when tnkit is imported
        lines, low, high = zip(*self.rows, strict=True)
        limits = solver.Bounds(np.zeros(self.width), np.append(np.ones(self.z), np.full(len(self.nodes), inf)))
        whole = np.append(np.ones(self.z), np.zeros(len(self.nodes)))
        found = solver.milp(
            self.cost,
            constraints=solver.LinearConstraint(np.array(lines), low, high),
            bounds=limits,
            integrality=whole,
            options={"time_limit": self.seconds, "mip_rel_gap": 1e-4},
        )
        if found.x is None:
            return None
        ranks = tuple(
            int(choice[np.argmax(found.x[spot])]) for spot, choice in zip(self.place, self.choices, strict=True)
        )
        return ranks, (found.mip_dual_bound or 0.0) * self.unit


def _grid(most: int) -> Array:
    """Ranks to choose from: all small ones, then fewer and fewer."""
    if most <= _EACH:
        return np.arange(1, most + 1)
    return np.unique(np.append(np.arange(1, _EACH), np.geomspace(_EACH, most, _EACH).astype(int)))


@dataclass(frozen=True, slots=True)
class PackingSearch(Proposer):
    """Tucker cores, and the cheapest tree, with packed ranks; then cores from the front of the cumulative sum.

    Attributes:
        program: whether the integer program is solved; its approximation always is.
        seconds: for each solution of the program.
        trees: whether the cheapest trees are packed as well.
    """

    program: bool = True
    seconds: float = 5.0
    trees: bool = True
    name: ClassVar[str] = "packing"
    summary: ClassVar[str] = "Tucker cores and trees by packing of singular values, and by the front of all core shapes"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        objective, shape = setting.objective, setting.shape
        if not isinstance(objective, DenseObjective) or objective.cuts is None or len(shape) < 3:
            return
        core = objective.trees.core
        front = tucker_front(core.x, norm=objective.norm, sizes=shape, lost2=core.lost2)
        eps, size = objective.eps, objective.max_params
        first = front.for_error(eps) if eps is not None else front.for_size(size or 0)
        graphs = [star(shape, first), *self.packed(objective, star(shape, (2,) * len(shape)))]
        if self.trees and len(shape) <= MOST_MODES:
            graphs += self.packed(objective, _cheapest_tree(objective))
        best: Trial | None = None
        for trial in (yield [Proposal(graph) for graph in {g.key: g for g in graphs}.values()]):
            if trial is not None and (best is None or objective.score(trial) < objective.score(best)):
                best = trial
        if eps is not None:
            yield from _down(front, eps, setting)

    def packed(self, objective: DenseObjective, tree: Graph) -> list[Graph]:
        """A tree with the ranks of the approximation and of the program."""
        bonds = list(tree.ranks)
        cuts = objective.cuts
        assert cuts is not None
        spectra = [cuts.energies(mask_beyond(tree, bond)) for bond in bonds]
        nodes = [
            (prod(tree.shape[k] for k in modes), tuple(j for j, b in enumerate(bonds) if v in b))
            for v, modes in enumerate(tree.nodes)
        ]
        allowed2 = None if objective.eps is None else (objective.eps * objective.norm) ** 2
        size = objective.max_params if allowed2 is None else None
        if size is not None and _size(nodes, (1,) * len(bonds)) > size:
            return []
        found = [choose_ranks(spectra, lambda r: _size(nodes, r), max_error2=allowed2, max_cost=size)]
        if self.program:
            exact = packed_ranks(spectra, nodes, max_params=size, max_error2=allowed2, seconds=self.seconds)
            found += [] if exact is None else [exact]
        return [Graph(tree.shape, tree.nodes, dict(zip(bonds, ranks, strict=True))) for ranks in found]


def _down(front: TuckerFront, eps: float, setting: Setting) -> Conversation:
    """Smaller cores, whose bases on the front miss eps by little: a fit may reach it; larger ones where it did not."""
    middle = int((front.errors > eps).sum())
    low, high = int((front.errors > 1.25 * eps).sum()) - 1, int((front.errors > 0.97 * eps).sum())
    high = min(high, len(front) - 1)
    for _ in range(_WALK):
        (trial,) = yield [Proposal(star(setting.shape, front.at(min(middle, high))))]
        if trial is not None and setting.objective.reached(trial.error):
            high = middle
        else:
            low = middle
        middle = (low + high) // 2
        if high - low < 2:
            return


def _cheapest_tree(objective: DenseObjective) -> Graph:
    assert objective.cuts is not None
    share = 0.05 if objective.eps is None else objective.eps * objective.norm
    return cheapest_trees(objective.cuts.ranks(np.array([0.3 * share**2])), objective.shape)[0][1]


STRATEGIES.register(PackingSearch.name, PackingSearch)
