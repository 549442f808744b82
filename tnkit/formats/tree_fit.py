"""Alternating least squares of a small tree network to a larger one over the same tree, node by node.

With all nodes but one isometries towards it, the best values of that one are the projection of the larger network on
the others: no equations to solve. A sweep visits every node by moving the centre along the bonds (for trains the
one-site DMRG fit: Schollwöck 2011, doi:10.1016/j.aop.2010.09.012, section 4.5). A truncation is within √(cuts) of the
best at its ranks; a few sweeps from it come nearer.

Example:
    >>> from tnkit.formats import random_format
    >>> from tnkit.formats.trees import tree_of
    >>> large = random_format("tt", (6, 6, 6, 6), 6, rng=0)
    >>> tree = tree_of(large.topology())
    >>> nodes = tree.orthogonalize(large.tensors(), tree.first_leaf(0))
    >>> small, lost2 = tree.truncate(nodes, {"r1": 3, "r2": 3, "r3": 3})
    >>> norm2 = float(large.norm()) ** 2
    >>> better, less2 = fit_small(tree, nodes, small, 0, norm2=norm2, sweeps=3)
    >>> less2 < lost2, [t.shape for t in better] == [t.shape for t in small]
    (True, True)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tnkit.formats.trees import Tree, absorb, unfold
from tnkit.linalg import energy

__all__ = ["fit_small"]


def fit_small(
    tree: Tree, large: Sequence[Tensor], small: Sequence[Tensor], root: int, *, norm2: float, sweeps: int
) -> tuple[list[Tensor], float]:
    """Fit a network to a larger one.

    Args:
        tree: of both.
        large: the nodes to be fitted.
        small: where to start: isometries towards `root`.
        root: the centre at the start and at the end.
        norm2: the energy of the large network.
        sweeps: rounds over all nodes.

    Returns:
        the nodes, isometries towards `root`, and the squared error, a difference of energies: it is rounding below
        machine eps times the whole energy.

    Cost:
        for each sweep and node one product of the large node with the ranks of the small one at every bond.
    """
    fit = _Fit(tree, large, small)
    for edge in reversed(tree.edges(root)):
        fit.pass_message(edge.child, edge.parent, edge.label, fit.projected(edge.child, edge.label))
    for _ in range(sweeps):
        for down, edge in tree.tour(root):
            source, target = (edge.parent, edge.child) if down else (edge.child, edge.parent)
            fit.move(source, target, edge.label)
    fit.nodes[root] = fit.projected(root)
    return fit.nodes, max(norm2 - energy(fit.nodes[root].reshape(1, -1)), 0.0)


class _Fit:
    """The small nodes, and for every bond what the two networks beyond it have in common."""

    def __init__(self, tree: Tree, large: Sequence[Tensor], small: Sequence[Tensor]) -> None:
        self.tree, self.large, self.nodes = tree, large, list(small)
        self.common: dict[
            tuple[int, str], Tensor
        ] = {}  # (node, bond) -> (small rank, large rank), from beyond the bond

    def projected(self, node: int, without: str | None = None) -> Tensor:
        """The large node with all bonds but one in the small network's bases: of all, the best values of the node."""
        labels = [label for label in self.tree.topology.inputs[node] if label != without]
        bonds = [label for label in labels if (node, label) in self.common]
        t = self.large[node]
        for label in sorted(
            bonds, key=lambda label: self.common[node, label].shape[0] / t.shape[self.axis(node, label)]
        ):
            t = absorb(t, self.axis(node, label), self.common[node, label])
        return t

    def axis(self, node: int, label: str) -> int:
        """Where a label stands on a node."""
        return self.tree.axis(node, label)

    def move(self, source: int, target: int, label: str) -> None:
        """The best values of the centre, of which the next node keeps what is no isometry."""
        part = self.projected(source, label)
        axis = self.axis(source, label)
        best = absorb(part, axis, self.common[source, label])
        q = torch.linalg.qr(unfold(best, axis))[0]
        others = [n for k, n in enumerate(best.shape) if k != axis]
        self.nodes[source] = q.reshape(*others, q.shape[1]).movedim(-1, axis)
        self.pass_message(source, target, label, part)

    def pass_message(self, source: int, target: int, label: str, part: Tensor) -> None:
        """What lies beyond a bond, seen from `target`; `part` is the source, projected without the bond."""
        axis = self.axis(source, label)
        self.common[target, label] = unfold(self.nodes[source], axis).mH @ unfold(part, axis)
