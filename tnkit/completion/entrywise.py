"""A network looked at from its observed entries: partial products, and least squares for the rows of one node.

For node k and an entry e, the entry's value is ⟨h_e, a_row(e)⟩, where a_row is the row of the node's unfolding that the
entry's position picks, and h_e is the contraction of all other nodes there. Along an order of the nodes, h_e is made of
a left and a right partial product, which are shared by all nodes of a sweep. Where there are very many entries, the
partial products are not stored: they are made anew for some entries at a time, so that memory is that of the entries.

Example:
    >>> import torch
    >>> from tnkit.network import Topology
    >>> rows = torch.tensor([[0, 1], [2, 0]])
    >>> net = Entrywise.of(Topology.parse("ia,aj->ij"), {"i": 3, "j": 2, "a": 1}, rows)
    >>> net.values((torch.ones(3, 1), torch.ones(1, 2))).tolist()
    [1.0, 1.0]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from tnkit.completion.blocks import Blocks
from tnkit.network import Topology

__all__ = ["Entrywise", "Partial"]

#: Entries of the largest intermediate that is made at once.
CHUNK = 2**18
#: Entries from which on partial products are made anew: memory does not grow with them, and it is faster besides.
MANY = 2**16
ENTRY = "#"


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """A product of some nodes at the entries.

    Attributes:
        labels: of the axes of `values` after the entries'.
        values: (N, …), or without the first axis where no node with an open label is in it yet.
        batched: whether it has that axis.
        recipe: where the product is not stored, its nodes in order, each with its tensor and the labels that are kept.
    """

    labels: tuple[str, ...]
    values: Tensor
    batched: bool
    recipe: tuple[tuple[int, Tensor, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Entrywise:
    """A topology at N entries.

    Attributes:
        topology: of the network.
        order: the nodes in the order of a sweep; a good one keeps `fronts` small.
        fronts: for each place p of the order, the labels between the nodes before p and those from p on.
        blocks: for each node its entries by rows (one row of all entries where it has no open label).
        sizes: of the modes.
        n: the number of entries.
        flats: for each node the row of each entry, (N,), where partial products are not stored; otherwise empty.
    """

    topology: Topology
    order: tuple[int, ...]
    fronts: tuple[tuple[str, ...], ...]
    blocks: tuple[Blocks, ...]
    sizes: tuple[int, ...]
    n: int
    flats: tuple[Tensor, ...] = ()

    @staticmethod
    def of(topology: Topology, sizes: Mapping[str, int], rows: Tensor, many: int = MANY) -> Entrywise:
        """Sort the entries for every node.

        Args:
            topology: of the network.
            sizes: of its open labels.
            rows: (N, number of open labels) positions of the entries.
            many: entries from which on partial products are not stored.
        """
        known: dict[tuple[str, ...], Blocks] = {}
        flats: dict[tuple[str, ...], Tensor] = {}
        lean = rows.shape[0] >= many
        for labels in topology.inputs:
            opened = _opened(labels, topology.output)
            if opened not in known:
                flat = rows.new_zeros(rows.shape[0])
                for label in opened:
                    flat = flat * sizes[label] + rows[:, topology.output.index(label)]
                n_rows = prod(sizes[label] for label in opened)
                known[opened] = Blocks.of(flat, n_rows, with_places=not lean)
                if lean:
                    flats[opened] = flat.to(torch.int32) if n_rows < 2**31 else flat
        blocks = tuple(known[_opened(labels, topology.output)] for labels in topology.inputs)
        order = sweep_order(topology)
        shape = tuple(sizes[label] for label in topology.output)
        kept = tuple(flats[_opened(labels, topology.output)] for labels in topology.inputs) if lean else ()
        return Entrywise(topology, order, fronts_of(topology, order), blocks, shape, rows.shape[0], kept)

    def opened(self, node: int) -> tuple[str, ...]:
        """The open labels of a node."""
        return _opened(self.topology.inputs[node], self.topology.output)

    def rest(self, node: int) -> tuple[str, ...]:
        """The other labels of a node."""
        return tuple(label for label in self.topology.inputs[node] if label not in self.topology.output)

    def table(self, node: int, t: Tensor) -> Tensor:
        """The node's tensor as (rows, unknowns of a row)."""
        labels = self.topology.inputs[node]
        axes = [labels.index(label) for label in (*self.opened(node), *self.rest(node))]
        moved = t.permute(axes)
        n_open = len(self.opened(node))
        return moved.reshape(prod(moved.shape[:n_open]), prod(moved.shape[n_open:]))

    def untable(self, node: int, table: Tensor, like: Tensor) -> Tensor:
        """The way back from `table` to the shape of `like`."""
        labels = self.topology.inputs[node]
        moved = (*self.opened(node), *self.rest(node))
        sizes = dict(zip(labels, like.shape, strict=True))
        back = table.reshape([sizes[label] for label in moved])
        return back.permute([moved.index(label) for label in labels]).contiguous()

    def full(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """All nodes: parameters and constants."""
        given = iter(tensors)
        like = tensors[0]
        return [next(given) if c is None else c.tensor(like.dtype, like.device) for c in self.topology.constants]

    # --- partial products -------------------------------------------------------------------------------------------

    def start(self, like: Tensor) -> Partial:
        """The empty product."""
        return Partial((), like.new_ones(()), False)

    def absorb(self, partial: Partial, node: int, t: Tensor, keep: tuple[str, ...]) -> Partial:
        """Multiply a node into a partial product; labels outside `keep` are summed over."""
        rest = self.rest(node)
        labels = tuple(label for label in keep if label in partial.labels or label in rest)
        if self.flats:
            batched = partial.batched or bool(self.opened(node))
            return Partial(labels, partial.values, batched, (*partial.recipe, (node, t, keep)))
        if not self.opened(node):
            return self._absorb_closed(partial, rest, t, labels)
        blocks = self.blocks[node]
        picked = self.table(node, t)[blocks.rows]
        sizes = _sizes(partial, rest, self.rest_shape(node, t))
        picked = picked.reshape(-1, *(sizes[label] for label in rest))
        if not partial.batched:
            made = _einsum(("", *partial.labels), ("g", *rest), ("g", *labels), partial.values, picked)
            return Partial(labels, made[blocks.owner[blocks.place // blocks.size]], True)
        widest = max(prod(sizes[label] for label in labels), prod(sizes[label] for label in partial.labels), 1)
        parts = []
        for start, stop in _ranges(blocks.slots.shape[0], CHUNK // (widest * blocks.size)):
            left = partial.values[blocks.slots[start:stop]]
            right = picked[blocks.owner[start:stop]]
            parts.append(_einsum(("p", "q", *partial.labels), ("p", *rest), ("p", "q", *labels), left, right))
        made = torch.cat(parts) if len(parts) > 1 else parts[0]
        return Partial(labels, made.flatten(0, 1)[blocks.place], True)

    def _absorb_closed(self, partial: Partial, rest: tuple[str, ...], t: Tensor, labels: tuple[str, ...]) -> Partial:
        if not partial.batched:
            made = _einsum(("", *partial.labels), ("", *rest), ("", *labels), partial.values, t)
            return Partial(labels, made, False)
        sizes = _sizes(partial, rest, tuple(t.shape))
        widest = max(prod(sizes[label] for label in labels), prod(sizes[label] for label in partial.labels), 1)
        parts = [
            _einsum(("q", *partial.labels), ("", *rest), ("q", *labels), partial.values[start:stop], t)
            for start, stop in _ranges(self.n, CHUNK // widest)
        ]
        return Partial(labels, torch.cat(parts) if len(parts) > 1 else parts[0], True)

    def _at_slots(self, partial: Partial, slots: Tensor) -> Partial:
        """A product at the entries in some slots (P, B): its values are (P, B, …)."""
        if partial.recipe:
            made = self._made(partial, slots.flatten())
            return Partial(made.labels, made.values.unflatten(0, slots.shape), True) if made.batched else made
        return Partial(partial.labels, partial.values[slots], True) if partial.batched else partial

    def _made(self, partial: Partial, entries: Tensor) -> Partial:
        """A product that is not stored, at some of the entries."""
        made = self.start(partial.values)
        for node, t, keep in partial.recipe:
            rest = self.rest(node)
            labels = tuple(label for label in keep if label in made.labels or label in rest)
            mark = "q" if made.batched else ""
            if self.opened(node):
                picked = self.table(node, t).index_select(0, self.flats[node].index_select(0, entries))
                picked = picked.reshape(-1, *self.rest_shape(node, t))
                values = _einsum((mark, *made.labels), ("q", *rest), ("q", *labels), made.values, picked)
                made = Partial(labels, values, True)
            else:
                values = _einsum((mark, *made.labels), ("", *rest), (mark, *labels), made.values, t)
                made = Partial(labels, values, made.batched)
        return made

    def rest_shape(self, node: int, t: Tensor) -> tuple[int, ...]:
        """The sizes of the other labels."""
        labels = self.topology.inputs[node]
        return tuple(t.shape[labels.index(label)] for label in self.rest(node))

    def rights(self, nodes: Sequence[Tensor]) -> list[Partial]:
        """For each place p of the order, the product of the nodes after it."""
        found = [self.start(nodes[0])]
        for p in reversed(range(1, len(self.order))):
            found.append(self.absorb(found[-1], self.order[p], nodes[self.order[p]], self.fronts[p]))
        return found[::-1]

    def values(self, tensors: Sequence[Tensor]) -> Tensor:
        """(N,) the network's values at the entries."""
        nodes = self.full(tensors)
        partial = self.start(nodes[0])
        for p in reversed(range(len(self.order))):
            partial = self.absorb(partial, self.order[p], nodes[self.order[p]], self.fronts[p])
        if partial.recipe:
            every = torch.arange(self.n, device=self.flats[0].device)
            widest = max((prod(t.shape[1:]) for t in nodes), default=1)
            ranges = _ranges(self.n, CHUNK // min(widest, 16))
            found = torch.cat([self._made(partial, every[start:stop]).values for start, stop in ranges])
        else:
            found = partial.values if partial.batched else partial.values.expand(self.n)
        return found.real if found.is_complex() and not any(t.is_complex() for t in tensors) else found

    # --- one node ---------------------------------------------------------------------------------------------------

    def design(self, node: int, t: Tensor, left: Partial, right: Partial, start: int, stop: int) -> Tensor:
        """The vectors h of the entries in some blocks of a node.

        Args:
            node: which.
            t: its tensor; its shape and dtype count.
            left: the product of the nodes before it.
            right: of those after it.
            start: first block.
            stop: one after the last.

        Returns:
            (stop − start, B, m), where m is the number of unknowns of a row.
        """
        rest, shape = self.rest(node), self.rest_shape(node, t)
        slots = self.blocks[node].slots[start:stop]
        terms, operands = [], []
        left, right = (self._at_slots(partial, slots) for partial in (left, right))
        for partial in (left, right):
            terms.append(("p", "q", *partial.labels) if partial.batched else ("", *partial.labels))
            operands.append(partial.values)
        known = set(left.labels) | set(right.labels)
        got = tuple(label for label in rest if label in known)
        front = ("p", "q") if left.batched or right.batched else ("",)
        h = _einsum(terms[0], terms[1], (*front, *got), *operands)
        if h.is_complex() and not t.is_complex():
            h = h.real
        lead = tuple(slots.shape)
        if not (left.batched or right.batched):
            h = h.expand(*lead, *h.shape)
        place = [n if label in got else 1 for label, n in zip(rest, shape, strict=True)]
        return h.reshape(*lead, *place).expand(*lead, *shape).reshape(*lead, prod(shape)).to(t.dtype)


def _opened(labels: Sequence[str], output: Sequence[str]) -> tuple[str, ...]:
    return tuple(label for label in labels if label in output)


def _ranges(n: int, most: int) -> Iterator[tuple[int, int]]:
    step = max(1, most)
    for start in range(0, n, step):
        yield start, min(n, start + step)


def _sizes(partial: Partial, rest: tuple[str, ...], shape: tuple[int, ...]) -> dict[str, int]:
    axes = partial.values.shape[1:] if partial.batched else partial.values.shape
    return {**dict(zip(partial.labels, axes, strict=True)), **dict(zip(rest, shape, strict=True))}


@lru_cache(maxsize=4096)
def _equation(a: tuple[str, ...], b: tuple[str, ...], out: tuple[str, ...]) -> str:
    letters = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    names: dict[str, str] = {"": ""}
    for label in (*a, *b):
        if label not in names:
            names[label] = next(letters)
    return ",".join("".join(names[label] for label in term) for term in (a, b)) + "->" + "".join(names[x] for x in out)


def _einsum(a: tuple[str, ...], b: tuple[str, ...], out: tuple[str, ...], x: Tensor, y: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, y.dtype)
    return torch.einsum(_equation(_mark(a), _mark(b), _mark(out)), x.to(wide), y.to(wide))


def _mark(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Axes of entries first, told apart from labels of the same name."""
    return (f"{ENTRY}{labels[0]}" if labels[0] else "", *labels[1:])


def fronts_of(topology: Topology, order: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """For each place p, the internal labels on nodes before p as well as on nodes from p on."""
    internal = set(topology.internal)
    fronts = []
    for p in range(len(order) + 1):
        before = {label for k in order[:p] for label in topology.inputs[k]}
        after = dict.fromkeys(label for k in order[p:] for label in topology.inputs[k])
        fronts.append(tuple(label for label in after if label in before and label in internal))
    return tuple(fronts)


@lru_cache(maxsize=256)
def sweep_order(topology: Topology) -> tuple[int, ...]:
    """An order whose fronts are short: from each node on, the next one is that after which the front is shortest."""
    n = len(topology.inputs)
    best: tuple[int, ...] = tuple(range(n))
    least = _front_cost(topology, best)
    for first in range(n):
        order = [first]
        while len(order) < n:
            left = [k for k in range(n) if k not in order]
            order.append(min(left, key=lambda k: (_front_length(topology, [*order, k]), k)))
        cost = _front_cost(topology, tuple(order))
        if cost < least:
            best, least = tuple(order), cost
    return best


def _front_length(topology: Topology, order: Sequence[int]) -> int:
    inside = {label for k in order for label in topology.inputs[k]}
    outside = {label for k in range(len(topology.inputs)) if k not in order for label in topology.inputs[k]}
    return len(inside & outside & set(topology.internal))


def _front_cost(topology: Topology, order: tuple[int, ...]) -> int:
    return sum(4 ** len(front) for front in fronts_of(topology, order))
