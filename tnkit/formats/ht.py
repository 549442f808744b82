"""Hierarchical Tucker: a binary tree of transfer tensors over the modes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any, ClassVar, TypeAlias

from torch import Tensor

from tnkit.errors import OptionError, ShapeError
from tnkit.formats.base import Format, as_format, require_axes, require_network
from tnkit.formats.layout import FormatSpec, Layout, require_shape
from tnkit.network import Topology
from tnkit.registry import FORMATS

__all__ = ["HTSpec", "HierarchicalTucker", "Tree", "balanced_tree", "linear_tree", "tree_leaves", "tree_nodes"]

#: A mode, or a pair of trees.
Tree: TypeAlias = "int | tuple[Tree, Tree]"


def balanced_tree(modes: Sequence[int]) -> Tree:
    """Halve the modes, in order, until single ones are left.

    Example:
        >>> balanced_tree(range(5))
        (((0, 1), 2), (3, 4))
    """
    modes = list(modes)
    if len(modes) == 1:
        return int(modes[0])
    half = (len(modes) + 1) // 2
    return (balanced_tree(modes[:half]), balanced_tree(modes[half:]))


def linear_tree(modes: Sequence[int]) -> Tree:
    """Split one mode off at a time, as a tensor train does.

    Example:
        >>> linear_tree(range(3))
        (0, (1, 2))
    """
    modes = list(modes)
    return int(modes[0]) if len(modes) == 1 else (int(modes[0]), linear_tree(modes[1:]))


def tree_nodes(tree: Tree) -> Iterator[Tree]:
    """All nodes, each before its children, left before right; the order of the stored tensors."""
    yield tree
    if isinstance(tree, tuple):
        yield from tree_nodes(tree[0])
        yield from tree_nodes(tree[1])


def tree_leaves(tree: Tree) -> tuple[int, ...]:
    """The modes, from left to right."""
    return (tree,) if isinstance(tree, int) else tree_leaves(tree[0]) + tree_leaves(tree[1])


@lru_cache(maxsize=128)
def ht_topology(tree: Tree) -> Topology:
    """Node k carries (its modes or its children's bonds, its own bond r_k); the root's bond has size 1."""
    inputs: list[tuple[str, ...]] = []

    def visit(node: Tree) -> str:
        position = len(inputs)
        inputs.append(())
        bond = f"r{position}"
        if isinstance(node, int):
            inputs[position] = (f"i{node}", bond)
        else:
            left = visit(node[0])
            right = visit(node[1])
            inputs[position] = (left, right, bond)
        return bond

    visit(tree)
    return Topology(tuple(inputs), tuple(f"i{k}" for k in range(len(tree_leaves(tree)))))


@as_format
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class HierarchicalTucker(Format):
    """Hierarchical Tucker (Hackbusch & Kühn 2009, doi:10.1007/s00041-009-9094-9; Grasedyck, doi:10.1137/090764189).

    Attributes:
        nodes: in the order of `tree_nodes`: a leaf (n_i, r), an inner node (r_left, r_right, r), the root r = 1.
        tree: nested pairs of modes, such as ((0, 1), (2, 3)).

    Example:
        >>> import torch
        >>> nodes = [torch.ones(2, 3, 1), torch.ones(4, 2), torch.ones(5, 3)]
        >>> HierarchicalTucker.from_nodes(nodes, tree=(0, 1)).ranks
        (2, 3)
    """

    nodes: tuple[Tensor, ...]
    tree: Tree = field(metadata={"static": True})
    name: ClassVar[str] = "ht"

    @classmethod
    def from_nodes(cls, nodes: Sequence[Tensor], tree: Tree) -> HierarchicalTucker:
        """A checked tree tensor.

        Raises:
            ShapeError: a number of nodes or shapes that do not fit the tree.
        """
        return cls.from_tensors(nodes, tree=tree)

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], **static: Any) -> HierarchicalTucker:
        """The nodes in the order of `tree_nodes`; `tree=` is required."""
        tree = _as_tree(static["tree"])
        kinds = list(tree_nodes(tree))
        if len(kinds) != len(tensors):
            raise ShapeError(
                f"HierarchicalTucker over tree {tree} has {len(kinds)} nodes; {len(tensors)} tensors were given."
            )
        axes = [2 if isinstance(kind, int) else 3 for kind in kinds]
        value = cls(
            tuple(require_axes(t, n, f"tree node {k}") for k, (t, n) in enumerate(zip(tensors, axes, strict=True))),
            tree,
        )
        if tensors[0].shape[-1] != 1:
            raise ShapeError(
                f"The root of a HierarchicalTucker must end with rank 1; its shape is {tuple(tensors[0].shape)}."
            )
        require_network(value)
        return value

    def topology(self) -> Topology:
        """A binary tree."""
        return ht_topology(self.tree)

    def bonds(self) -> tuple[str, ...]:
        """r1, r2 …: one for each node but the root."""
        return tuple(f"r{k}" for k in range(1, len(self.nodes)))


def _as_tree(tree: Any) -> Tree:
    if isinstance(tree, list | tuple):
        if len(tree) != 2:
            raise OptionError(f"Tree {tree!r} is not binary: each inner node is a pair. Example: ((0, 1), (2, 3)).")
        return (_as_tree(tree[0]), _as_tree(tree[1]))
    return int(tree)


@dataclass(frozen=True, slots=True)
class HTSpec(FormatSpec):
    """Hierarchical Tucker.

    Attributes:
        tree: "balanced", "linear", or nested pairs of modes.
    """

    tree: str | Tree = "balanced"
    name: ClassVar[str] = "ht"

    def resolve(self, d: int) -> Tree:
        """The tree over d modes.

        Raises:
            OptionError: an unknown name, or a tree that does not hold every mode once.
        """
        if isinstance(self.tree, str):
            if self.tree not in ("balanced", "linear"):
                raise OptionError(f"HTSpec(tree={self.tree!r}) is unknown. Use 'balanced', 'linear' or nested pairs.")
            return balanced_tree(range(d)) if self.tree == "balanced" else linear_tree(range(d))
        tree = _as_tree(self.tree)
        if sorted(tree_leaves(tree)) != list(range(d)):
            raise OptionError(f"HTSpec(tree={tree}) must hold each of the modes 0 … {d - 1} once.")
        return tree

    def layout(self, shape: Sequence[int]) -> Layout:
        """Bonds r1, r2 …: one for each node but the root, in the order of `tree_nodes`."""
        n = require_shape(shape, name="A hierarchical Tucker tensor")
        tree = self.resolve(len(n))
        sizes = {f"i{k}": size for k, size in enumerate(n)} | {"r0": 1}
        nodes = list(tree_nodes(tree))
        inside = [prod(n[k] for k in tree_leaves(node)) for node in nodes]
        caps = tuple(max(1, min(size, prod(n) // size)) for size in inside[1:])
        bonds = tuple(f"r{k}" for k in range(1, len(nodes)))
        return Layout(self.name, HierarchicalTucker, n, ht_topology(tree), sizes, bonds, caps, caps, {"tree": tree})


FORMATS.register("ht", HTSpec())
