"""Fit trees of free ranks and free shape to one array, in the core of a Tucker form of it.

The array is compressed once, to a core in orthonormal bases of its modes, which loses a small share of the error that
is allowed. What that loses is at right angles to all that follows, so the squared errors add up exactly. Spectra,
starts and sweeps are taken in the core; the result is brought back and centred on the array itself.

Reference: Vannieuwenhoven, Vandebril & Meerbergen 2012, doi:10.1137/110836067 (sequential truncation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, inf, log, prod

import torch
from torch import Tensor

from tnkit.decompose.cut_spectra import Atoms, CutSpectra
from tnkit.decompose.nested import project_nested
from tnkit.formats.trees import absorb, tree_of
from tnkit.linalg import choose_ranks, energy, split
from tnkit.search.graph import Bond, Graph
from tnkit.search.tree_bounds import MOST_MODES
from tnkit.search.tree_refine import refined, squeezed
from tnkit.search.tree_state import Tails, TreeState
from tnkit.search.tree_trades import Aim, trimmed
from tnkit.solvers import Control

__all__ = ["Core", "TreeFits", "core_of", "in_core", "mask_beyond", "on_array", "start_from"]

_SHARE, _LARGE_SHARE = 0.02, 0.1  # of the squared error that is allowed
_LARGE = 2**20  # entries from which the larger share is given, and single precision where it resolves what is allowed
_SINGLE = 1e-2  # relative error from which it does
_RESOLVED = 300.0  # times machine eps: the share of the energy above which a difference of energies is an error
_STALLED = 1e-4  # fall of the squared error below which sweeps at ranks end
_ROUNDS = 3  # of a polish


@dataclass(frozen=True, slots=True, eq=False)
class Core:
    """An array in orthonormal bases.

    Attributes:
        x: (m_0 …), the core.
        bases: (n_k, m_k), or None where the core is the array.
        lost2: the squared error of this form.
        sizes: n_k.
    """

    x: Tensor
    bases: tuple[Tensor, ...] | None
    lost2: float
    sizes: tuple[int, ...]


def core_of(x: Tensor, norm: float, eps: float | None) -> Core:
    """The Tucker core in which trees are sought.

    Args:
        x: (n_0 …).
        norm: of it.
        eps: the relative error that is allowed; None compresses nothing.

    Cost:
        a Gram matrix and a projection for each mode.
    """
    sizes = tuple(x.shape)
    if not eps:
        return Core(x, None, 0.0, sizes)
    large = x.numel() > _LARGE
    left2 = (_LARGE_SHARE if large else _SHARE) * (eps * norm) ** 2
    core, lost2, bases = x, 0.0, list[Tensor | None]([None] * x.ndim)
    order = sorted(range(x.ndim), key=lambda k: x.shape[k])  # the cheapest Gram matrices first
    for done, k in enumerate(order):
        part = split(core.movedim(k, 0).reshape(core.shape[k], -1), tail2=(left2 - lost2) / (x.ndim - done))
        if part.rank == core.shape[k]:
            continue
        lost2 += part.discarded2
        rest = [n for j, n in enumerate(core.shape) if j != k]
        core, bases[k] = part.rest.reshape(-1, *rest).movedim(0, k), part.basis
    if all(b is None for b in bases) or core.numel() > 0.9 * x.numel():
        core, found, lost2 = x, None, 0.0
    else:
        eyes = (torch.eye(n, dtype=x.dtype, device=x.device) for n in sizes)
        found = tuple(e if b is None else b for b, e in zip(bases, eyes, strict=True))
    if core.numel() > _LARGE and eps >= _SINGLE and core.dtype in (torch.float64, torch.complex128):
        core = core.to(torch.float32 if core.dtype == torch.float64 else torch.complex64)
    return Core(core.contiguous(), found, lost2, sizes)


def start_from(core: Core, graph: Graph, rng: torch.Generator) -> TreeState:
    """A tree fitted from its leaves at the ranks of the graph, which may be larger than they can be."""
    topology, d = graph.topology, core.x.ndim
    limits = {f"b{a}_{b}": r for (a, b), r in graph.ranks.items()}
    found = project_nested(core.x, tree_of(topology), limits, energy(core.x.reshape(1, -1)), rng)
    bonds = {bond: d + k for k, bond in enumerate(graph.ranks)}
    legs = {
        node: [*modes, *(leg for bond, leg in bonds.items() if node in bond)] for node, modes in enumerate(graph.nodes)
    }
    return TreeState(core.x, core.sizes, legs, dict(enumerate(found.tensors)), 0)


def on_array(core: Core, state: TreeState, x: Tensor) -> TreeState:
    """The tree as one of the array itself, in its precision, with the best centre."""
    tensors = {}
    for node, own in state.legs.items():
        t = state.tensors[node].to(x.dtype)
        for axis, leg in enumerate(own):
            if core.bases is not None and leg < x.ndim:
                t = absorb(t, axis, core.bases[leg])
        tensors[node] = t
    whole = TreeState(x, core.sizes, state.legs, tensors, state.centre)
    whole.recentre()
    return whole


def in_core(core: Core, graph: Graph, tensors: Sequence[Tensor]) -> TreeState:
    """A tree of the array as one of the core, with the best centre there."""
    d = core.x.ndim
    bonds = {bond: d + k for k, bond in enumerate(graph.ranks)}
    legs, nodes = {}, {}
    for node, modes in enumerate(graph.nodes):
        legs[node] = [*modes, *(leg for bond, leg in bonds.items() if node in bond)]
        nodes[node] = tensors[node].to(core.x.dtype)
        if core.bases is not None:
            for axis, k in enumerate(modes):
                nodes[node] = absorb(nodes[node], axis, core.bases[k].to(core.x.dtype).mH)
    state = TreeState(core.x, core.sizes, *connected(legs, nodes, d + len(bonds)), 0)
    state.recentre()
    return state


def connected(
    legs: dict[int, list[int]], nodes: dict[int, Tensor], free: int
) -> tuple[dict[int, list[int]], dict[int, Tensor]]:
    """The same with bonds of size 1 between parts that have none."""
    group = {node: node for node in legs}
    for leg in {leg for own in legs.values() for leg in own}:
        ends = [node for node, own in legs.items() if leg in own]
        if len(ends) == 2:
            old, new = group[ends[1]], group[ends[0]]
            group = {node: new if g == old else g for node, g in group.items()}
    first, *others = dict.fromkeys(group.values())
    for k, other in enumerate(others):
        for node in (first, other):
            legs[node] = [*legs[node], free + k]
            nodes[node] = nodes[node].unsqueeze(-1)
    return legs, nodes


class TreeFits:
    """The smallest trees of one array for one question.

    Args:
        x: the array.
        norm: of it.
        eps: the relative error that is allowed, if any.
        max_params: the size that is allowed, if any.
        rng: random numbers.
        control: deadline.
    """

    def __init__(
        self, x: Tensor, norm: float, eps: float | None, max_params: int | None, rng: torch.Generator, control: Control
    ) -> None:
        self.x, self.norm, self.eps, self.max_params = x, norm, eps, max_params
        self.rng, self.control = rng, control

    @cached_property
    def core(self) -> Core:
        """Where trees are sought."""
        return core_of(self.x, self.norm, self.eps)

    @cached_property
    def cuts(self) -> CutSpectra:
        """The spectra of the core. They bound those of the array from below: the bases only take away."""
        shape = tuple(self.core.x.shape)
        allowed2 = self.allowed2
        if self.core.x.numel() <= _LARGE and allowed2 is not None:  # bounds are to be trusted
            allowed2 = min(allowed2, 9e-5 * self.norm**2)
        return CutSpectra(Atoms(shape, tuple((n,) for n in shape)), self.core.x, None, allowed2)

    @property
    def allowed2(self) -> float | None:
        """The squared error that the core leaves to a tree."""
        return None if self.eps is None else max((self.eps * self.norm) ** 2 * (1 - 1e-6) - self.core.lost2, 0.0)

    @property
    def resolved(self) -> bool:
        """Whether the sweeps can tell what is asked from rounding."""
        least = _RESOLVED * torch.finfo(self.core.x.dtype).eps
        return self.allowed2 is None or self.allowed2 > least * self.norm**2

    def ranks(self, graph: Graph) -> dict[Bond, int]:
        """The ranks of a tree that are chosen together by the spectra of its cuts."""
        bonds = list(graph.ranks)
        spectra = [self.cuts.energies(mask_beyond(graph, bond)) for bond in bonds]

        def cost(ranks: tuple[int, ...]) -> int:
            return size_at(graph, dict(zip(bonds, ranks, strict=True)))

        if self.allowed2 is not None:
            # tails of many cuts overlap, so that their sum is allowed to be larger than the error by about half of each
            more = 1.0 + 0.5 * max(len(bonds) - 1, 0)
            chosen = choose_ranks(spectra, cost, max_error2=self.allowed2 * more)
        else:
            assert self.max_params is not None
            chosen = choose_ranks(spectra, cost, max_cost=max(self.max_params, cost((1,) * len(bonds))))
        return dict(zip(bonds, chosen, strict=True))

    def fit(self, graph: Graph) -> tuple[Graph, tuple[Tensor, ...]]:
        """A small tree that is found from the shape of a tree; its ranks do not count.

        Cost:
            some dozens of sweeps over the core.
        """
        ranks = self.ranks(graph)
        first = Graph(graph.shape, graph.nodes, {b: max(r, 2) for b, r in ranks.items()})
        start = start_from(self.core, first, self.rng)
        start.tails = self.tails
        found = refined(start, self.aim, price=self.price(graph, ranks))
        return on_array(self.core, found, self.x).network()

    def at_ranks(self, graph: Graph, *, steps: int) -> tuple[Graph, tuple[Tensor, ...]]:
        """A tree at its ranks, or less where it cannot use them: HOOI for any tree, in the core.

        Reference: De Lathauwer, De Moor & Vandewalle 2000, doi:10.1137/S0895479898346995, for Tucker.
        """
        found = start_from(self.core, graph, self.rng)
        found.floor2 = self.aim.floor2(found)
        before = inf
        for _ in range(steps):
            found.sweep(None)
            now = found.error2
            if now > before * (1 - _STALLED) or self.control.out_of_time:
                break
            before = now
        return on_array(self.core, found, self.x).network()

    def polish(self, graph: Graph, tensors: Sequence[Tensor]) -> tuple[Graph, tuple[Tensor, ...]]:
        """What is saved by single ranks and splits from a tree that was fitted.

        Cost:
            up to some hundred sweeps over the core.
        """
        aim, best = self.aim, in_core(self.core, graph, tensors)
        best.tails = self.tails
        best = trimmed(best, aim)
        for _ in range(_ROUNDS):
            size = best.n_params
            best = squeezed(best, aim)
            if aim.out_of_time() or best.n_params >= size:
                break
            best = trimmed(best, aim)
        return on_array(self.core, best, self.x).network()

    @property
    def tails(self) -> Tails | None:
        """What every cut loses, where the spectra of all are taken."""
        return self.cuts.tails if self.x.ndim <= MOST_MODES else None

    @property
    def aim(self) -> Aim:
        """What is asked of a tree over the core."""
        return Aim(self.allowed2, self.max_params, lambda: self.control.out_of_time)

    def price(self, graph: Graph, ranks: Mapping[Bond, int]) -> float | None:
        """What a unit of squared error costs at the ranks: between the last singular value kept and the next."""
        found = []
        for bond, rank in ranks.items():
            s2 = self.cuts.energies(mask_beyond(graph, bond))
            ends = sum(size_at(graph, ranks, node) for node in bond) / rank
            edge = float(s2[min(rank, len(s2)) - 1])
            if edge > 1e-14 * self.norm**2 and ends > 0:
                found.append(log(ends / edge))
        return exp(sum(found) / len(found)) if found else None


def size_at(graph: Graph, ranks: Mapping[Bond, int], node: int | None = None) -> int:
    """Entries of all nodes, or of one, at other ranks."""
    nodes = range(len(graph.nodes)) if node is None else (node,)
    return sum(
        prod(graph.shape[k] for k in graph.nodes[j]) * prod(r for bond, r in ranks.items() if j in bond) for j in nodes
    )


def mask_beyond(graph: Graph, bond: Bond) -> int:
    """The modes on one side of a bond of a tree."""
    seen, stack = {bond[0]}, [bond[0]]
    while stack:
        node = stack.pop()
        for other in graph.ranks:
            if node in other and other != bond:
                (far,) = set(other) - {node}
                if far not in seen:
                    seen.add(far)
                    stack.append(far)
    return sum(1 << k for node in seen for k in graph.nodes[node])
