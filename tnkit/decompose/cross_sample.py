"""Entries of a tree tensor, points drawn by the squares of its entries, and the error that such points show.

Points drawn uniformly miss what is localised; points drawn with probability |t|²/‖t‖² see all that the approximation
knows of, and points whose indices follow its marginals what lies beside that. A third of each, weighted by the density
of all together, gives an unbiased estimate of ‖f − t‖² whose weights are bounded (multiple importance sampling, Veach &
Guibas 1995, doi:10.1145/218380.218498). Drawing from |t|² is exact: Ferris & Vidal, arXiv:1201.3974.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tnkit.decompose.cross_tree import PivotTree

__all__ = ["Estimate", "Sample", "TreeTensor", "draw_sample", "uniform_points", "uniform_sample"]

Array: TypeAlias = "NDArray[Any]"
Points: TypeAlias = "NDArray[np.int64]"

#: Numbers that one intermediate may hold.
BATCH = 2**22


class TreeTensor:
    """A tensor on a tree; node 0 is the root.

    Args:
        tree: of the nodes.
        nodes: their tensors: an axis for each edge, then the mode.
    """

    def __init__(self, tree: PivotTree, nodes: Sequence[Array]) -> None:
        self.tree = tree
        self.nodes = [self._upwards(node, nodes[node], edge) for node, _, edge in _by_node(tree)]
        self.children = [
            tuple(tree.other(e, node) for e in tree.edges_of[node] if e != edge) for node, _, edge in _by_node(tree)
        ]
        self._roots: list[Array] | None = None
        self._norm2 = 0.0

    def _upwards(self, node: int, t: Array, edge: int | None) -> Array:
        """Axes: the children, the mode (1 where there is none), the edge to the parent (1 at the root)."""
        t = t[..., None] if edge is None else np.moveaxis(t, self.tree.edges_of[node].index(edge), -1)
        return t if self.tree.modes[node] is not None else np.expand_dims(t, -2)

    @property
    def norm2(self) -> float:
        """‖t‖²."""
        self._gram_roots()
        return self._norm2

    def at(self, points: Points) -> Array:
        """Entries at (N, d) points."""
        size = max(1, BATCH // max(t.size // t.shape[-2] for t in self.nodes))
        return np.concatenate([self._values(points[k : k + size]) for k in range(0, max(len(points), 1), size)])

    def _values(self, points: Points) -> Array:
        messages: dict[int, Array] = {}
        for node, _, _ in reversed(self.tree.tour):
            messages[node] = self._message(node, points, [messages.pop(c) for c in self.children[node]])
        return messages[0][:, 0]

    def _message(self, node: int, points: Points, below: Sequence[Array]) -> Array:
        """(N, r): what the part of the points under a node gives for its edge upwards."""
        mode = self.tree.modes[node]
        index = np.zeros(len(points), dtype=np.int64) if mode is None else points[:, mode]
        t = np.moveaxis(self.nodes[node], -2, 0)  # (n, children …, r)
        if not below:
            return t[index]
        if mode is None:
            first = np.tensordot(below[0], t[0], axes=1)
        else:
            first = np.einsum("na,na...->n...", below[0], t[index])
        for message in below[1:]:
            first = np.einsum("na,na...->n...", message, first)
        return first

    def _gram_roots(self) -> list[Array]:
        """For each node S with S Sᴴ = Σ z zᴴ over all parts of points below it."""
        if self._roots is None:
            roots: list[Array] = [np.ones((1, 1))] * len(self.nodes)
            for node, _, _ in reversed(self.tree.tour):
                t = self._shrunk(self.nodes[node], [roots[c] for c in self.children[node]])
                gram = np.tensordot(t, t.conj(), axes=(range(t.ndim - 1), range(t.ndim - 1)))
                value, basis = np.linalg.eigh(gram)
                roots[node] = basis * np.sqrt(np.maximum(value, 0.0))
                if node == 0:
                    self._norm2 = float(gram[0, 0].real)
            self._roots = roots
        return self._roots

    @staticmethod
    def _shrunk(t: Array, roots: Sequence[Array], first: int = 0) -> Array:
        for k, root in enumerate(roots):
            t = np.moveaxis(np.tensordot(t, root, axes=([first + k], [0])), -1, first + k)
        return t

    def draw(self, count: int, rng: np.random.Generator) -> Points:
        """Points with probability |t|²/‖t‖²."""
        self._gram_roots()
        size = max(1, min(count, BATCH // max(t.size for t in self.nodes)))
        points = np.zeros((count, len(self.tree.shape)), dtype=np.int64)
        for start in range(0, count, size):
            part = points[start : start + size]
            self._descend(0, np.ones((len(part), 1, 1)), part, rng)
        return points

    def _descend(self, node: int, above: Array, points: Points, rng: np.random.Generator) -> Array:
        """Draw the modes under a node, given (N, r, s) factors of the weight above it; their message upwards."""
        roots, mode, below = self._gram_roots(), self.tree.modes[node], self.children[node]
        w = np.moveaxis(np.tensordot(above, self.nodes[node], axes=([1], [self.nodes[node].ndim - 1])), 1, -1)
        # (N, children …, n, s)
        if mode is None:
            w = w[..., 0, :]
        else:
            t = np.moveaxis(self._shrunk(w, [roots[c] for c in below], first=1), -2, 1)
            weight = np.square(np.abs(t)).reshape(*t.shape[:2], -1).sum(axis=2)
            points[:, mode] = _choose(weight, rng)
            w = np.moveaxis(w, -2, 1)[np.arange(len(w)), points[:, mode]]
        found = []
        for k, child in enumerate(below):
            rest = self._shrunk(w[:, :, ...], [roots[c] for c in below[k + 1 :]], first=2)
            found.append(self._descend(child, rest.reshape(len(w), rest.shape[1], -1), points, rng))
            w = np.einsum("na,na...->n...", found[-1], w)
        return self._message(node, points, found)


def _by_node(tree: PivotTree) -> list[tuple[int, int | None, int | None]]:
    return sorted(tree.tour, key=lambda entry: entry[0])


def _choose(weight: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """One column for each row, with probability by weight."""
    total = np.cumsum(weight, axis=1)
    drawn = rng.random((len(weight), 1)) * total[:, -1:]
    found: NDArray[np.int64] = np.minimum((total <= drawn).sum(axis=1), weight.shape[1] - 1)
    return found


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a sample says of the error.

    Attributes:
        error: relative, the upper end of two standard errors.
        mean: relative, without that margin.
        worst: the largest |f − t|.
    """

    error: float
    mean: float
    worst: float


@dataclass(frozen=True, slots=True)
class Sample:
    """Points that no pivot is taken from, with the density that they were drawn by.

    Attributes:
        points: (N, d).
        values: of the function there.
        density: the probability of each point.
    """

    points: Points
    values: Array
    density: NDArray[np.float64]

    def estimate(self, t: TreeTensor) -> Estimate:
        """‖f − t‖/‖f‖, from these points and the norm of `t`."""
        if not len(self.points):
            return Estimate(inf, inf, inf)
        off = np.abs(self.values - t.at(self.points))
        lost2 = np.square(off) / self.density
        mean2 = float(lost2.mean())
        margin = 2.0 * float(lost2.std()) / sqrt(len(off))
        all2 = t.norm2
        if mean2 > 0.01 * all2:  # then ‖t‖ says little of ‖f‖
            all2 = max(float((np.square(np.abs(self.values)) / self.density).mean()), np.finfo(float).tiny)
        return Estimate(sqrt((mean2 + margin) / all2), sqrt(mean2 / all2), float(off.max()))

    def fitted(self, t: TreeTensor) -> tuple[float, float]:
        """The real factor of `t` that fits the points best, and the relative error that is then left (mean).

        It is 0 where `t` has nothing to do with the function.
        """
        weight, guess = 1.0 / self.density, t.at(self.points)
        all2 = float((weight * np.square(np.abs(self.values))).mean())
        both = float((weight * (self.values * guess.conj()).real).mean())
        own = float((weight * np.square(np.abs(guess))).mean())
        if all2 <= 0 or own <= 0 or both <= 0:
            return 0.0, 1.0
        return both / own, sqrt(max(all2 - both**2 / own, 0.0) / all2)

    def without(self, rows: NDArray[np.int64]) -> Sample:
        """The others; the estimate of what is left is that of a smaller sample."""
        keep = np.ones(len(self.points), dtype=bool)
        keep[rows] = False
        return Sample(self.points[keep], self.values[keep], self.density[keep])


def uniform_points(count: int, shape: Sequence[int], rng: np.random.Generator) -> Points:
    """Points drawn uniformly."""
    return np.stack([rng.integers(n, size=count) for n in shape], axis=1)


def uniform_sample(points: Points, values: Array, shape: Sequence[int]) -> Sample:
    """A sample of points that were drawn uniformly."""
    return Sample(points, values, np.full(len(points), _uniform_density(shape)))


def draw_sample(t: TreeTensor, f: Callable[[Points], Array], count: int, rng: np.random.Generator) -> Sample:
    """Fresh points, a third of each kind: uniform; by |t|²; and each index by itself, by the marginals of |t|.

    The third kind sees what lies beside and between the places where `t` is large.

    Args:
        t: the approximation.
        f: the function.
        count: of points.
        rng: for the draws.
    """
    shape = t.tree.shape
    third = count // 3
    uniform, drawn = uniform_points(count - 2 * third, shape, rng), t.draw(third, rng)
    marginals = [np.sqrt(np.bincount(drawn[:, k], minlength=n) + 0.25) for k, n in enumerate(shape)]
    marginals = [m / m.sum() for m in marginals]
    apart = np.stack([rng.choice(len(m), size=third, p=m) for m in marginals], axis=1)
    points = np.concatenate([uniform, drawn, apart])
    alone = np.exp(sum(np.log(m[points[:, k]]) for k, m in enumerate(marginals)))
    by_square = np.square(np.abs(t.at(points))) / t.norm2 if t.norm2 > 0 else 0.0
    share = third / max(count, 1)
    density = (1 - 2 * share) * _uniform_density(shape) + share * by_square + share * alone
    return Sample(points, f(points), density)


def _uniform_density(shape: Sequence[int]) -> float:
    return float(np.exp(-sum(np.log(n) for n in shape)))
