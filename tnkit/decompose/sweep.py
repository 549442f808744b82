"""One sweep of alternating least squares on any topology, with the partial contractions shared between nodes.

Node k enters the dense tensor linearly: x̂ = E_k θ_k with E_k the contraction of all others. Its best value solves
E_kᴴE_k θ_k = E_kᴴx. Neither E_k nor its product with θ_k is formed: E_kᴴE_k is a small network, and E_kᴴx is the
array contracted with the conjugated other nodes. A dimension tree over the nodes shares those contractions: for the
left half of the nodes, the right half is contracted into the array once, and so on downwards (Phan, Tichavský,
Cichocki, doi:10.1109/TSP.2013.2269903, for CP; here for any topology).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, prod, sqrt

import torch
from torch import Tensor

from tnkit.decompose.tangent import curvature, gradient, scale
from tnkit.linalg.lstsq import solve_gram
from tnkit.linalg.products import energy, padded_rows, wide_dtype
from tnkit.linalg.tall_qr import reduced_qr
from tnkit.network import Topology, contract, plan

__all__ = ["LeastSquares", "NodeLabels", "Workspace", "is_sure"]

Labels = tuple[str, ...]

#: Above this share of ‖x‖² the difference of inner products tells the error to about 1e-3; below, it is measured.
SAFE_SHARE = {torch.float32: 1e-3, torch.float64: 1e-11, torch.complex64: 1e-3, torch.complex128: 1e-11}

#: Above this share it tells the error to about 1e-8, even if large terms cancel: no need to measure it.
SURE_SHARE = {torch.float64: 1e-4, torch.complex128: 1e-4}

#: From so many entries on a contraction with the array is done as one matrix product, if that takes at most so many
#: times the operations of the best order.
MATRIX, JOINED = 2**12, 1.25


class Workspace:
    """Memory for the large intermediate results of a sweep: fresh pages cost more than the arithmetic on them."""

    def __init__(self) -> None:
        self._blocks: dict[object, Tensor] = {}

    def take(self, key: object, shape: Sequence[int], like: Tensor) -> Tensor:
        """A contiguous tensor of this shape, of the dtype and device of `like`, with whatever was there before.

        What was taken under the same key before is overwritten.
        """
        size, block = prod(shape), self._blocks.get(key)
        if block is None or block.numel() < size or block.dtype != like.dtype:
            block = self._blocks[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        return block[:size].view(tuple(shape))


def is_sure(error: float, dtype: torch.dtype) -> bool:
    """Whether a relative error from inner products is as good as a measured one."""
    return error**2 > SURE_SHARE.get(dtype, inf)


@dataclass(frozen=True, slots=True)
class NodeLabels:
    """The labels of a node, by what they mean for its least-squares problem.

    Attributes:
        batch: open, and on other nodes as well: one problem for each value.
        bond: internal, and on other nodes: the unknowns of a problem.
        free: open, on this node only: one right side for each value.
        lone: internal, on this node only: summed, so only the sum matters.
    """

    batch: Labels
    bond: Labels
    free: Labels
    lone: Labels

    @staticmethod
    def of(topology: Topology, node: int) -> NodeLabels:
        """Sorted for one node."""
        others = {label for k, labels in enumerate(topology.inputs) if k != node for label in labels}
        kinds: dict[tuple[bool, bool], list[str]] = {(a, b): [] for a in (True, False) for b in (True, False)}
        for label in topology.inputs[node]:
            kinds[label in topology.output, label in others].append(label)
        return NodeLabels(*(tuple(kinds[key]) for key in ((True, True), (False, True), (True, False), (False, False))))


def _order(terms: int) -> str:
    return "auto" if terms < 5 else "greedy"


class LeastSquares:
    """The least-squares problems of all nodes of a network for one array.

    Args:
        x: the array, in the order of the topology's open labels.
        topology: of the network; constants are filled in.
        norm: ‖x‖.
        orthogonal: whether nodes are orthogonalised (or their slices normalised) after their update, which changes the
            representation and not the tensor, and keeps the next problem well conditioned.
    """

    def __init__(self, x: Tensor, topology: Topology, norm: float, *, orthogonal: bool = True) -> None:
        constants = {k: c.tensor(x.dtype, x.device) for k, c in enumerate(topology.constants) if c is not None}
        x = x.contiguous()  # every product with it reads it as it lies
        self.x, self.norm, self.real = x, norm, not x.is_complex()
        self.graph = Topology(topology.inputs, topology.output)
        self.parameters = topology.parameters
        self.dtype = x.dtype
        for constant in constants.values():
            self.dtype = torch.promote_types(self.dtype, constant.dtype)
        self.constants = {k: c.to(self.dtype) for k, c in constants.items()}
        self.data = x if x.dtype == self.dtype else x.to(self.dtype)
        self.wide = wide_dtype(self.dtype)
        self.labels = {k: NodeLabels.of(self.graph, k) for k in self.parameters}
        self.orthogonal = orthogonal
        self.space = Workspace()
        self.order = tuple(sorted(self.parameters, key=self._first_mode))
        self._graphs: dict[object, Topology] = {}

    def _first_mode(self, node: int) -> tuple[int, int]:
        modes = [self.graph.output.index(label) for label in self.graph.inputs[node] if label in self.graph.output]
        return (min(modes, default=len(self.graph.output)), node)

    # -- between parameters and nodes

    def nodes(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """All nodes, constants included, in one dtype."""
        given = iter(tensors)
        return [
            self.constants[k] if k in self.constants else next(given).to(self.dtype)
            for k in range(len(self.graph.inputs))
        ]

    def tensors(self, nodes: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The parameters in the array's own dtype."""
        return tuple(self._own(nodes[k]) for k in self.parameters)

    def _own(self, t: Tensor) -> Tensor:
        return (t.real if self.real and t.is_complex() else t).to(self.x.dtype)

    def dense(self, nodes: Sequence[Tensor]) -> Tensor:
        """The dense tensor."""
        whole = contract(self.graph, nodes)
        return whole.real if self.real and whole.is_complex() else whole

    def residual(self, nodes: Sequence[Tensor]) -> tuple[Tensor, float]:
        """X − x̂ and its relative norm."""
        rest = self.x - self.dense(nodes)
        return rest, sqrt(energy(rest)) / self.norm

    def error(self, tensors: Sequence[Tensor]) -> float:
        """The measured relative error."""
        return self.residual(self.nodes(tensors))[1]

    # -- contractions

    def network(self, terms: Sequence[tuple[Tensor, Labels]], output: Labels) -> Tensor:
        """Contract tensors, given with their labels, to the labels of `output`; each topology is made once."""
        graph = self._graph(tuple(labels for _, labels in terms), output)
        return contract(graph, [t for t, _ in terms], optimize=_order(len(terms)))

    def _graph(self, inputs: tuple[Labels, ...], output: Labels) -> Topology:
        graph = self._graphs.get((inputs, output))
        if graph is None:
            graph = self._graphs[inputs, output] = Topology(inputs, output)
        return graph

    def product(
        self,
        terms: Sequence[tuple[Tensor, Labels]],
        part: Tensor,
        labels: Labels,
        output: Labels,
        *,
        keep: bool = True,
    ) -> Tensor:
        """Contract nodes into a partial contraction (or the array): one matrix product as it lies, where that is best.

        Where the nodes meet `part` in its first or its last labels only, they are contracted with each other, and the
        result is one matrix that multiplies `part`: no copy of it in another order is made. Without `keep` the result
        lies in memory that the next sweep overwrites.
        """
        met = {label for _, others in terms for label in others} & set(labels)
        kept = tuple(label for label in labels if label not in met)
        own = tuple(label for label in output if label not in labels)
        first, last = set(labels[: len(met)]) == met, set(labels[len(labels) - len(met) :]) == met
        batch = len(own) + len(kept) < len(output)  # a label that stays, and is on the nodes as well
        if not met or part.numel() < MATRIX or not (first or last) or batch or not part.is_contiguous():
            return self.network([*terms, (part, labels)], output)
        sizes = dict(zip(labels, part.shape, strict=True))
        for node, others in terms:
            sizes |= zip(others, node.shape, strict=True)
        graph = self._graph((*(others for _, others in terms), labels), output)
        apart = plan(graph, [*(node.shape for node, _ in terms), part.shape], optimize=_order(len(terms) + 1))
        if 2 * prod(sizes[label] for label in own) * part.numel() > JOINED * apart.flops:
            return self.network([*terms, (part, labels)], output)
        inner = labels[: len(met)] if first else labels[len(labels) - len(met) :]
        node = self._joined(terms, own, inner, sizes)
        width = prod(sizes[label] for label in inner)
        flat = part.reshape(width, -1) if first else part.reshape(-1, width).mT
        rows = node.reshape(-1, width)
        padded = padded_rows(rows, part)
        into = None if keep else self.space.take(("product", output), (padded.shape[0], flat.shape[1]), padded)
        made = torch.mm(padded, flat, out=into)[: rows.shape[0]].view([sizes[label] for label in own + kept])
        turned = made.permute([(own + kept).index(label) for label in output])
        if keep or turned.is_contiguous():
            return turned
        return self.space.take(("turned", output), turned.shape, made).copy_(turned)

    def _joined(
        self, terms: Sequence[tuple[Tensor, Labels]], own: Labels, inner: Labels, sizes: dict[str, int]
    ) -> Tensor:
        """Nodes contracted with each other to the labels own + inner; two of them straight into that order."""
        output = own + inner
        if len(terms) == 2 and prod(sizes[label] for label in output) >= MATRIX:
            for (a, first), (b, second) in (terms, terms[::-1]):
                shared = tuple(label for label in first if label in second)
                rows = tuple(label for label in inner if label in first)
                columns = tuple(label for label in inner if label in second)
                if (
                    not set(shared) & set(output)
                    and rows + columns == inner
                    and set(first + second) == {*output, *shared}
                ):
                    left = self._spread(a, first, own, (*rows, *shared), sizes)
                    right = self._spread(b, second, own, (*shared, *columns), sizes)
                    k, deep, wide = (prod(sizes[label] for label in part) for part in (own, shared, columns))
                    into = self.space.take(("nodes", output), (k, left.numel() // max(k * deep, 1), wide), left)
                    torch.bmm(left.reshape(k, -1, deep), right.reshape(k, deep, wide), out=into)
                    return into.view([sizes[label] for label in output])
        return self.network(terms, output)

    @staticmethod
    def _spread(node: Tensor, labels: Labels, batch: Labels, rest: Labels, sizes: dict[str, int]) -> Tensor:
        """A node with axes for all labels of `batch`, whether it has them or not, and then `rest`."""
        order = [labels.index(label) for label in (*batch, *rest) if label in labels]
        turned = node.permute(order)[tuple(slice(None) if b in labels else None for b in batch)]
        return turned.expand(*(sizes[label] for label in (*batch, *rest)))

    def leaves(self, nodes: list[Tensor], data: Tensor) -> Iterator[tuple[int, Tensor, tuple[int, ...]]]:
        """For each parameter node, in order, the right side E_kᴴ data with the labels batch, bond, free.

        The third entry names the nodes that no partial contraction holds, so that they may change as well.

        `nodes` is read when a node's turn comes, so that a caller who updates it between turns gets Gauss–Seidel sweeps
        and one who does not gets the gradient.
        """
        sizes = self.graph.sizes([t.shape for t in nodes])
        everything = tuple(range(len(nodes)))
        yield from self._descend(nodes, sizes, self.order, data, self.graph.output, everything)

    def _descend(
        self,
        nodes: list[Tensor],
        sizes: dict[str, int],
        update: tuple[int, ...],
        part: Tensor,
        labels: Labels,
        pending: tuple[int, ...],
    ) -> Iterator[tuple[int, Tensor, tuple[int, ...]]]:
        if len(update) == 1:
            k = update[0]
            kinds = self.labels[k]
            rest = [(nodes[j].conj(), self.graph.inputs[j]) for j in pending if j != k]
            yield k, self.product(rest, part, labels, kinds.batch + kinds.bond + kinds.free), pending
            return
        for mine, others in self._halves(sizes, update, labels, pending):
            taken = self._absorbed(sizes, others, labels, pending)
            if not taken:
                yield from self._descend(nodes, sizes, mine, part, labels, pending)
                continue
            left = tuple(j for j in pending if j not in taken)
            output = self._arranged(self._remaining(taken, labels, left), sizes, mine, left)
            terms = [(nodes[j].conj(), self.graph.inputs[j]) for j in taken]
            smaller = self.product(terms, part, labels, output, keep=False)
            yield from self._descend(nodes, sizes, mine, smaller, output, left)

    def _remaining(self, taken: Sequence[int], labels: Labels, left: Sequence[int]) -> Labels:
        """What is left of the array's labels, those of the network first, after some nodes were contracted into it."""
        needed = {label for j in left for label in self.graph.inputs[j]}
        touched = dict.fromkeys([*(label for j in taken for label in self.graph.inputs[j]), *labels])
        kept = [label for label in touched if label in needed]
        return tuple(sorted(kept, key=lambda label: label in self.graph.output))

    def _arranged(
        self, labels: Labels, sizes: dict[str, int], update: tuple[int, ...], pending: tuple[int, ...]
    ) -> Labels:
        """The order of labels in which both halves of the nodes meet a partial contraction at one of its ends."""
        if len(update) == 1 or prod(sizes[label] for label in labels) < MATRIX:
            return labels
        left, _ = self._halves(sizes, update, labels, pending)[0]
        begins = {label for k in left for label in self.graph.inputs[k]}
        return tuple(sorted(labels, key=lambda label: label not in begins))

    def _absorbed(
        self, sizes: dict[str, int], others: Sequence[int], labels: Labels, pending: Sequence[int]
    ) -> tuple[int, ...]:
        """The nodes that carry modes, if contracting them makes nothing larger than the array."""
        taken = tuple(
            j for j in others if any(label in labels for label in self.graph.inputs[j] if label in self.graph.output)
        )
        left = [j for j in pending if j not in taken]
        entries = prod(sizes[label] for label in self._remaining(taken, labels, left))
        return taken if taken and entries <= self.x.numel() else ()

    def _halves(
        self, sizes: dict[str, int], update: tuple[int, ...], labels: Labels, pending: Sequence[int]
    ) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
        """The cut of a run of nodes whose two partial contractions are smallest together."""

        def entries(others: Sequence[int]) -> float:
            left = [j for j in pending if j not in others]
            return float(prod(sizes[label] for label in self._remaining(others, labels, left)))

        at = min(range(1, len(update)), key=lambda s: entries(update[:s]) + entries(update[s:]))
        return (update[:at], update[at:]), (update[at:], update[:at])

    def pair(self, nodes: Sequence[Tensor], j: int) -> list[tuple[Tensor, Labels]]:
        """conj(node j) and node j, contracted over the modes that are theirs alone if that is small."""
        primed = tuple(label if label in self.graph.output else label + "'" for label in self.graph.inputs[j])
        node = nodes[j].to(self.wide)
        both = [(node.conj(), primed), (node, self.graph.inputs[j])]
        others = {label for k, labels in enumerate(self.graph.inputs) if k != j for label in labels}
        kept = tuple(label for label in self.graph.inputs[j] if label in others)
        inner = tuple(label for label in kept if label not in self.graph.output)
        shape = dict(zip(self.graph.inputs[j], node.shape, strict=True))
        if prod(shape[label] for label in kept) * prod(shape[label] for label in inner) > 4 * node.numel() + 4096:
            return both
        output = tuple(label for label in kept if label in self.graph.output)
        output += tuple(label + "'" for label in inner) + inner
        return [(self.network(both, output), output)]

    def gram(self, pairs: dict[int, list[tuple[Tensor, Labels]]], k: int) -> Tensor:
        """EᴴE of node k in float64, (batch, bond', bond)."""
        kinds = self.labels[k]
        terms = [term for j, pair in pairs.items() if j != k for term in pair]
        if not terms:
            return torch.ones((), dtype=self.wide, device=self.x.device)
        g = self.network(terms, kinds.batch + tuple(label + "'" for label in kinds.bond) + kinds.bond)
        return g.real if self.real and g.is_complex() else g

    # -- the sweep

    def sweep(
        self, tensors: Sequence[Tensor], ridge: float = 0.0, *, regauge: bool = True
    ) -> tuple[tuple[Tensor, ...], float]:
        """Update every node once.

        Args:
            tensors: the parameters.
            ridge: pull towards the old value of a node, as a share of the mean eigenvalue of EᴴE.
            regauge: whether the representation may be turned, if `orthogonal` allows it.

        Returns:
            The new parameters, and the relative error after them.
        """
        nodes = self.nodes(tensors)
        pairs = {j: self.pair(nodes, j) for j in range(len(nodes))}
        share = 1.0
        for k, rhs, loose in self.leaves(nodes, self.data):
            last = k == self.order[-1]
            nodes[k], share = self._solve(nodes[k], k, self.gram(pairs, k), rhs, ridge, told=last)
            changed = self._regauge_(nodes, k, loose) if self.orthogonal and regauge else ()
            for j in (k, *changed):
                pairs[j] = self.pair(nodes, j)
        if share > SAFE_SHARE[self.x.dtype]:
            return self.tensors(nodes), sqrt(share)
        new = self.tensors(nodes)
        return new, self.error(new)

    def _solve(
        self, old: Tensor, k: int, gram: Tensor, rhs: Tensor, ridge: float, *, told: bool
    ) -> tuple[Tensor, float]:
        """The new value of a node, and with `told` the share of ‖x‖² that is left then."""
        kinds, labels = self.labels[k], self.graph.inputs[k]
        shape = dict(zip(labels, old.shape, strict=True))
        batch, bond, free = (prod(shape[label] for label in part) for part in (kinds.batch, kinds.bond, kinds.free))
        lone = prod(shape[label] for label in kinds.lone)
        rhs = rhs.real if self.real and rhs.is_complex() else rhs
        right = rhs.reshape(batch, bond, free).to(gram.dtype)
        g = (
            gram.expand(tuple(shape[label] for label in kinds.batch) + gram.shape[len(kinds.batch) :])
            if kinds.batch
            else gram
        )
        g = g.reshape(batch, bond, bond)
        order = [labels.index(label) for label in (*kinds.batch, *kinds.bond, *kinds.free, *kinds.lone)]
        before = old.permute(order).reshape(batch, bond, free, lone).sum(-1)
        before = (before.real if self.real and before.is_complex() else before).to(gram.dtype)
        # what E does not see keeps its old value; without a pull it would be rounding divided by rounding
        pull = max(ridge, 8 * torch.finfo(self.x.dtype).eps) * g.diagonal(dim1=-2, dim2=-1).real.mean(-1)
        theta = solve_gram(g, right + pull[:, None, None] * before, pull)
        share = 1.0
        if told:
            inner = 2 * (right.conj() * theta).real.sum() - (theta.conj() * (g @ theta)).real.sum()
            share = 1.0 - float(inner) / self.norm**2
        parts = [shape[label] for label in (*kinds.batch, *kinds.bond, *kinds.free)]
        spread = (theta / lone).reshape(*parts, *(1 for _ in kinds.lone))
        spread = spread.expand(*parts, *(shape[label] for label in kinds.lone))
        back = [order.index(axis) for axis in range(len(order))]
        return spread.permute(back).contiguous().to(self.dtype), share

    # -- all nodes at once

    def linearise(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Jᴴ(x − x̂), JᴴJ and the size of its diagonal, for the derivative J with respect to all parameters."""
        nodes = self.nodes(tensors)
        rest, _ = self.residual(nodes)
        second = curvature(self, nodes)
        return gradient(self, nodes, rest.to(self.dtype)), second, scale([t.numel() for t in tensors], second)

    def moved(self, tensors: Sequence[Tensor], delta: Tensor) -> tuple[Tensor, ...]:
        """The parameters after a step."""
        parts = delta.split([t.numel() for t in tensors])
        return tuple(t + p.reshape(t.shape).to(t.dtype) for t, p in zip(tensors, parts, strict=True))

    # -- other representations of the same tensor

    def _regauge_(self, nodes: list[Tensor], k: int, loose: Sequence[int]) -> tuple[int, ...]:
        """Make node k orthonormal towards the next node it shares a bond with, or normalise its hyperedges.

        Only nodes that no partial contraction holds may take the factor up. The next one in order is among them: a
        partial contraction that holds it serves a run of nodes that ends with k.
        """
        ahead = self.order.index(k)
        following = [*self.order[ahead + 1 :], *self.order[:ahead]]
        following = [m for m in following if m in loose or m == following[0]]
        changed: list[int] = []
        turned = False
        for m in following:
            for label in self.labels[k].bond:
                holders = self.graph.nodes_of(label)
                if m not in holders or label not in self.graph.inputs[m]:
                    continue
                if len(holders) == 2:
                    if not turned and self._turn_(nodes, k, m, label):
                        turned = True
                        changed.append(m)
                elif all(j not in self.constants for j in holders) and m == next(j for j in following if j in holders):
                    self._normalise_(nodes, k, m, label)
                    changed.append(m)
        return tuple(changed)

    def _turn_(self, nodes: list[Tensor], k: int, m: int, label: str) -> bool:
        axis, other = self.graph.inputs[k].index(label), self.graph.inputs[m].index(label)
        node = nodes[k].movedim(axis, -1)
        tall = node.reshape(-1, node.shape[-1])
        if tall.shape[0] < tall.shape[1]:
            return False
        q, r = reduced_qr(tall)
        phase = torch.sgn(r.diagonal())
        phase = torch.where(phase == 0, torch.ones_like(phase), phase)
        nodes[k] = (q * phase).reshape(node.shape).movedim(-1, axis).contiguous()
        nodes[m] = (
            torch.tensordot(phase.conj()[:, None] * r, nodes[m], dims=([1], [other])).movedim(0, other).contiguous()
        )
        return True

    def _normalise_(self, nodes: list[Tensor], k: int, m: int, label: str) -> None:
        axis, other = self.graph.inputs[k].index(label), self.graph.inputs[m].index(label)
        norms = (
            torch.linalg.vector_norm(nodes[k].movedim(axis, 0).flatten(1), dim=1)
            if nodes[k].ndim > 1
            else nodes[k].abs()
        )
        norms = torch.where(norms > 0, norms, torch.ones_like(norms))
        shape = [-1 if a == axis else 1 for a in range(nodes[k].ndim)]
        nodes[k] = nodes[k] / norms.reshape(shape)
        shape = [-1 if a == other else 1 for a in range(nodes[m].ndim)]
        nodes[m] = nodes[m] * norms.reshape(shape)
