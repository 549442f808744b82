"""What a stream keeps: orthonormal bases that grow, and the rows of the streaming mode; never the slabs.

A slab is projected on the bases, node by node from the leaves of the tree to the node of the streaming mode (the root).
What a basis misses is compressed and added to it, so bases only grow, older rows stay what they are, and the squared
errors of all slabs add up exactly. Older rows have zeros in the columns that came later.

When what is kept has doubled, it is truncated. Let the rows i have seen the bases P_i of their time. A truncation turns
their P_i x into some x', and ‖x − x'‖² = ‖x − P_i x‖² + ‖P_i x − x'‖² − 2 Re⟨x − P_i x, x'⟩. The last term is at most
‖x − P_i x‖ ‖(1 − P_i) x'‖, and both are known: x' is in the new bases, whose overlaps with the old ones are small
matrices. Where that was done before, x is known no better than its error, and errors add as norms do.

Reference for bases that grow with a stream: Brand 2002, doi:10.1007/3-540-47969-4_47; for trains: Liu, Yang, Fu & Qian
2018, doi:10.1016/j.neucom.2018.01.073, there without a bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt

import torch
from torch import Tensor

from tnkit.decompose.bases import Labelled, Step, as_node, grouped
from tnkit.decompose.rough import Rough
from tnkit.formats.rank_plan import RankPlan, Truncated
from tnkit.formats.trees import Tree
from tnkit.linalg import energy, reduced_qr

__all__ = ["Rounded", "StreamState"]

_SHARE = 0.1  # of the squared error that truncations of the state may use up
#: Entries of a state up to whose double nothing is truncated.
LEAST = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """A truncation of all that was seen.

    Attributes:
        nodes: of the tree, isometries towards the root.
        error2: the squared error, or a bound of it.
        exact: whether it is true to 1 %.
    """

    nodes: tuple[Tensor, ...]
    error2: float
    exact: bool


class StreamState:
    """Bases, rows and the account of errors.

    Args:
        tree: of the format.
        root: the node of the streaming mode.
        bonds: the labels that have ranks.
        mode: the label of the streaming mode.
        sizes: of the other modes' labels.
        like: gives dtype and device.
    """

    def __init__(
        self, tree: Tree, root: int, bonds: Sequence[str], mode: str, sizes: Mapping[str, int], like: Tensor
    ) -> None:
        self.tree, self.root, self.bonds, self.mode = tree, root, tuple(bonds), mode
        self.sizes = dict(sizes)
        own = [label for label in tree.topology.inputs[root] if label == mode or label in tree.bonds]
        self.row_labels = tuple(own)
        self.steps: list[Step] = []
        for edge in reversed(tree.edges(root)):
            inputs = tree.topology.inputs[edge.child]
            below = tuple(k for k in inputs if k != edge.label and (k in self.sizes or k in tree.bonds))
            shape = [self.sizes.setdefault(label, 0) for label in below]
            self.steps.append(Step(edge.child, below, edge.label, like.new_zeros((*shape, 0))))
            self.sizes[edge.label] = 0
        self.rows: list[Tensor] = []  # axes as in row_labels, the bonds as large as they were
        self.like = like.new_zeros(0)
        self.norm2 = 0.0
        self.loose = 0.0  # bound of the error of rows that were truncated
        self.tight2 = 0.0  # squared error of those that were not
        self.n_loose = 0  # how many were
        self.exact = True
        self.settled = LEAST  # entries from whose double on it is truncated

    @property
    def error2(self) -> float:
        """The squared error of what is kept."""
        return self.loose**2 + self.tight2

    @property
    def n_rows(self) -> int:
        """Rows of the streaming mode."""
        axis = self.row_labels.index(self.mode)
        return sum(t.shape[axis] for t in self.rows)

    @property
    def n_entries(self) -> int:
        """Entries that are kept."""
        return sum(t.numel() for t in self.rows) + sum(step.basis.numel() for step in self.steps)

    def rescale_(self, factor: float) -> None:
        """Multiply everything by a number."""
        self.rows = [t * factor for t in self.rows]
        self.norm2, self.tight2 = self.norm2 * factor * factor, self.tight2 * factor * factor
        self.loose *= factor

    # -- slabs

    def push_(
        self, x: Labelled, caps: Mapping[str, int], error2: float | None, floor2: float, gen: torch.Generator
    ) -> None:
        """Take a slab.

        Args:
            x: the slab.
            caps: the largest size of each bond.
            error2: the squared error that it may have; None for as little as the caps allow.
            floor2: the squared error that rounding leaves.
            gen: random numbers for sketches.
        """
        spent = 0.0
        for k, step in enumerate(self.steps):
            step = self.padded(step)
            a, before, after = grouped(x, step.below)
            sizes = (*x.sizes(before), *x.sizes(after))
            x = step.project(x)
            columns = prod(step.basis.shape[:-1])
            if step.rank < columns:
                # the matrix (c, n) that this node sees, and what its basis misses of it
                matrix = a.movedim(1, 0).reshape(columns, -1)
                coordinates = x.ordered((step.bond, *before, *after)).reshape(step.rank, matrix.shape[1])
                missed = torch.addmm(matrix, step.matrix(), coordinates, alpha=-1) if step.rank else matrix
                missed2 = energy(missed)
                room = min(caps[step.bond], columns) - step.rank
                rough = Rough(error2, floor2, max(1, len(self.bonds)), False, gen)
                fine = floor2 if error2 is None else max(0.02 * (error2 - spent), floor2)
                if missed2 > fine / rough.cuts and room > 0:
                    more, rows, missed2 = self.enlarged(step, missed, missed2, room, rough, spent)
                    basis = torch.cat([step.matrix(), more], 1).reshape(*step.basis.shape[:-1], -1)
                    step = replace(step, basis=basis)
                    wide = torch.cat([coordinates, rows]).reshape(step.rank, *sizes)
                    x = Labelled(wide, (step.bond, *before, *after))
                spent += missed2
            self.steps[k] = step
            self.sizes[step.bond] = step.rank
        self.rows.append(x.ordered(self.row_labels).contiguous())
        self.tight2 += spent
        self.merge_()

    def enlarged(
        self, step: Step, missed: Tensor, missed2: float, room: int, rough: Rough, spent: float
    ) -> tuple[Tensor, Tensor, float]:
        """New columns of a basis, the coordinates in them, and the energy that is still missed."""
        found = rough.split(missed, room, missed2, spent, "left").basis
        more = reduced_qr(torch.cat([step.matrix(), found], 1))[0][:, step.rank :]
        rows = more.mH @ missed
        return more, rows, energy(torch.addmm(missed, more, rows, alpha=-1))

    def padded(self, step: Step) -> Step:
        """The basis with zeros for what its children have gained."""
        return replace(step, basis=_grown(step.basis, (*(self.sizes[label] for label in step.below), step.rank)))

    def merge_(self) -> None:
        """Join the last pieces of rows that have seen the same bases; each row is copied a few times in all."""
        axis = self.row_labels.index(self.mode)

        def bonds(t: Tensor) -> tuple[int, ...]:
            return tuple(n for k, n in enumerate(t.shape) if k != axis)

        while len(self.rows) > 1 and bonds(self.rows[-2]) == bonds(self.rows[-1]):
            first, last = self.rows[-2], self.rows[-1]
            old = sum(t.shape[axis] for t in self.rows[:-2])
            if first.shape[axis] > 2 * last.shape[axis] or old < self.n_loose:
                break
            self.rows[-2:] = [torch.cat([first, last], axis)]

    # -- truncation

    def nodes(self) -> list[Tensor]:
        """The tree of all that was seen, isometries towards the root."""
        axis = self.row_labels.index(self.mode)
        shape = [self.sizes.get(label, 0) for label in self.row_labels]
        rows = [_grown(t, (*shape[:axis], t.shape[axis], *shape[axis + 1 :])) for t in self.rows]
        found = {self.root: as_node(Labelled(torch.cat(rows, axis), self.row_labels), self.tree, self.root)}
        for step in self.steps:
            padded = self.padded(step)
            found[step.node] = as_node(Labelled(padded.basis, (*step.below, step.bond)), self.tree, step.node)
        return [found[k] for k in range(len(found))]

    @property
    def empty(self) -> bool:
        """Whether nothing but zeros is kept."""
        return any(self.sizes[bond] == 0 for bond in self.bonds)

    def rounded(self, allowed2: float | None, floor2: float, caps: Mapping[str, int]) -> Rounded:
        """A truncation whose squared error, with what was lost before, is at most `allowed2`.

        Args:
            allowed2: the squared error of the whole; None for what the caps give.
            floor2: the squared error that rounding leaves.
            caps: the largest ranks, which come first.
        """
        plan = RankPlan(self.tree, self.nodes(), self.bonds, root=self.root, caps=[caps[b] for b in self.bonds])
        if allowed2 is None:
            return self.accounted(plan.best(None))
        known = self.error2
        high = max(allowed2 - known, floor2)  # if all errors are at right angles
        sure = max(max(sqrt(allowed2) - sqrt(known), 0.0) ** 2, floor2)  # whatever they are
        for budget in (high, 0.93 * high, 0.75 * high, sure):
            found = self.accounted(plan.best(max(budget, sure)))
            if found.error2 <= max(allowed2, known + floor2) or budget <= sure:
                break
        return found

    def accounted(self, found: Truncated) -> Rounded:
        """The error of a truncation, with what was lost before."""
        known, change = self.error2, sqrt(max(found.lost2, 0.0))
        if known == 0.0 or change == 0.0:
            return Rounded(found.tensors, known + found.lost2, self.exact)
        turned = min(change, sqrt(self.outside2(found)))
        crossed = 2.0 * min(sqrt(known) * change, self.loose * change + sqrt(self.tight2) * turned)
        whole = known + found.lost2 + crossed
        return Rounded(found.tensors, whole, self.exact and crossed <= 0.01 * whole)

    def outside2(self, found: Truncated) -> float:
        """Σ ‖(1 − P_i) x'_i‖² over the rows that were never truncated."""
        new = {k: Labelled(t, self.tree.topology.inputs[k]) for k, t in enumerate(found.tensors)}
        overlaps: dict[str, Tensor] = {}
        for step in self.steps:
            x = _without(new[step.node], {*step.below, step.bond})
            for label in step.below:
                if label in overlaps:
                    x = _times(x, label, overlaps[label])
            padded = self.padded(step)
            flat = x.ordered((*step.below, step.bond)).reshape(prod(padded.basis.shape[:-1]), -1)
            overlaps[step.bond] = padded.matrix().mH @ flat
        root = _without(new[self.root], set(self.row_labels))
        axis, at, total, whole = self.row_labels.index(self.mode), 0, 0.0, 0.0
        for piece in self.rows:
            rows = slice(at, at + piece.shape[axis])
            at = rows.stop
            if rows.start < self.n_loose:
                continue
            x = Labelled(root.ordered(self.row_labels).narrow(axis, rows.start, piece.shape[axis]), self.row_labels)
            before = energy(x.tensor.contiguous())
            for k, label in enumerate(self.row_labels):
                if label != self.mode:
                    x = _times(x, label, overlaps[label][: piece.shape[k]])
            whole += before
            total += max(before - energy(x.tensor.contiguous()), 0.0)
        return total + 100 * torch.finfo(self.like.dtype).eps * whole

    def truncate_(self, eps: float | None, floor2: float, caps: Mapping[str, int]) -> None:
        """Drop what matters no more."""
        allowed2 = None if eps is None else max(_SHARE * eps**2 * self.norm2, floor2)
        found = self.rounded(allowed2, floor2, caps)
        limit = None if eps is None else eps**2 * self.norm2
        if limit is None or found.error2 <= max(limit, self.error2 + floor2):
            labelled = {k: Labelled(t, self.tree.topology.inputs[k]) for k, t in enumerate(found.nodes)}
            for k, step in enumerate(self.steps):
                own = _without(labelled[step.node], {*step.below, step.bond})
                self.steps[k] = replace(step, basis=own.ordered((*step.below, step.bond)).contiguous())
                self.sizes[step.bond] = self.steps[k].rank
            root = _without(labelled[self.root], set(self.row_labels))
            self.rows = [root.ordered(self.row_labels).contiguous()]
            self.loose, self.tight2, self.n_loose = sqrt(found.error2), 0.0, self.n_rows
            self.exact = found.exact
        self.settled = max(LEAST, self.n_entries)


def _grown(t: Tensor, shape: Sequence[int]) -> Tensor:
    """With zeros at the ends of its axes."""
    if tuple(t.shape) == tuple(shape):
        return t
    wide = t.new_zeros(tuple(shape))
    wide[tuple(slice(0, n) for n in t.shape)] = t
    return wide


def _without(x: Labelled, keep: set[str]) -> Labelled:
    """Without the labels of size 1 that stand at the ends of a train."""
    labels = tuple(label for label in x.labels if label in keep)
    return Labelled(x.tensor.reshape(x.sizes(labels)), labels)


def _times(x: Labelled, label: str, matrix: Tensor) -> Labelled:
    """An axis multiplied by a matrix (new, old)."""
    axis = x.labels.index(label)
    return Labelled(torch.tensordot(x.tensor, matrix, dims=([axis], [1])).movedim(-1, axis), x.labels)
