"""Chains, trees and Tucker forms over sets of modes: the cheapest ones by dynamic programming over all subsets.

A set of atoms is a bit mask. The rank of a cut depends on the set alone, so the size of a chain is a sum over its
steps from set to set, that of a tree a sum over its nodes, and the best over all orders and merges is found in 3^D
steps. A common level of loss for all cuts gives the ranks; many levels give many candidates, which are then compared
with their ranks chosen together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Structure", "best_orders", "cheap_chains", "cheap_groups", "cheap_trees", "tree_of_blocks"]

Array: TypeAlias = "NDArray[np.float64]"
#: A set of atoms, or a pair of trees.
MaskTree: TypeAlias = "int | tuple[MaskTree, MaskTree]"


@dataclass(frozen=True, slots=True)
class Structure:
    """A candidate.

    Attributes:
        blocks: the atoms of each mode of the tensorized array, as bit masks.
        cuts: the set of atoms on one side of each bond.
        cost: entries at given ranks.
        score: entries at the ranks of the level where it was found, or another number to sort by.
        tree: over the blocks, for hierarchical Tucker.
    """

    blocks: tuple[int, ...]
    cuts: tuple[int, ...]
    cost: Callable[[tuple[int, ...]], int]
    score: float
    tree: MaskTree | None = None


def subsets(mask: int) -> NDArray[np.int64]:
    """All sets in a mask but the empty one, ascending."""
    bits = [1 << k for k in range(mask.bit_length()) if mask >> k & 1]
    found = np.zeros(1, dtype=np.int64)
    for bit in bits:
        found = np.concatenate([found, found | bit])
    return found[1:]


def sizes_of_sets(sizes: Sequence[int]) -> Array:
    """The product of the sizes of every set."""
    found = np.ones(1)
    for n in sizes:
        found = np.concatenate([found, found * n])
    return found


def cheap_chains(ranks: Array, sizes: Sequence[int], *, most_blocks: int | None = None) -> list[Structure]:
    """The cheapest chains at each level and for each number of blocks.

    Args:
        ranks: (levels, sets) of every cut.
        sizes: of the atoms.
        most_blocks: of a chain; 2 for matrices.
    """
    n, full = sizes_of_sets(sizes), 2 ** len(sizes) - 1
    most = len(sizes) if most_blocks is None else min(most_blocks, len(sizes))

    def step(done: int, blocks: NDArray[np.int64]) -> Array:
        return ranks[:, [done]] * n[blocks] * ranks[:, done | blocks]

    best, chains = _walk(len(ranks), full, most, step, subsets)
    found = []
    for level in range(len(ranks)):
        for count in range(1, most + 1):
            if np.isfinite(best[level, count]):
                blocks = chains(level, count)
                found.append(_chain(blocks, n, float(best[level, count])))
    return found


def best_orders(lost: Array, count: int) -> list[Structure]:
    """The order of single atoms whose cuts lose least together, at one rank for all.

    Args:
        lost: by set.
        count: of the atoms.
    """
    full = 2**count - 1

    def step(done: int, blocks: NDArray[np.int64]) -> Array:
        return np.asarray(lost[done | blocks][None, :])

    def single(mask: int) -> NDArray[np.int64]:
        return np.array([1 << k for k in range(count) if mask >> k & 1], dtype=np.int64)

    best, chains = _walk(1, full, count, step, single)
    return [_chain(chains(0, count), np.ones(full + 1), float(best[0, count]))]


def _chain(blocks: tuple[int, ...], n: Array, score: float) -> Structure:
    done, cuts = 0, []
    for block in blocks[:-1]:
        done |= block
        cuts.append(done)
    width = [int(n[block]) for block in blocks]

    def cost(ranks: tuple[int, ...]) -> int:
        return sum(a * w * b for a, w, b in zip((1, *ranks), width, (*ranks, 1), strict=True))

    return Structure(blocks, tuple(cuts), cost, score)


def _walk(
    levels: int,
    full: int,
    most: int,
    step: Callable[[int, NDArray[np.int64]], Array],
    options: Callable[[int], NDArray[np.int64]],
) -> tuple[Array, Callable[[int, int], tuple[int, ...]]]:
    """The cheapest ways from the empty set to the full one, by level and number of steps, and how to read them."""
    best = np.full((full + 1, levels, most + 1), np.inf)
    came = np.zeros((full + 1, levels, most + 1), dtype=np.int64)
    best[0, :, 0] = 0.0
    for done in range(full):
        if not np.isfinite(best[done]).any():
            continue
        blocks = options(full ^ done)
        goals = done | blocks
        cost = best[done][None, :, :-1] + step(done, blocks).T[:, :, None]
        now = best[goals]
        better = cost < now[:, :, 1:]
        now[:, :, 1:] = np.where(better, cost, now[:, :, 1:])
        best[goals] = now
        past = came[goals]
        past[:, :, 1:] = np.where(better, blocks[:, None, None], past[:, :, 1:])
        came[goals] = past

    def read(level: int, count: int) -> tuple[int, ...]:
        blocks: list[int] = []
        at = full
        for k in range(count, 0, -1):
            block = int(came[at, level, k])
            blocks.append(block)
            at ^= block
        return tuple(blocks[::-1])

    return best[full], read


def cheap_trees(ranks: Array, sizes: Sequence[int]) -> list[Structure]:
    """The cheapest dimension trees at each level; a leaf may hold several atoms."""
    n, full = sizes_of_sets(sizes), 2 ** len(sizes) - 1
    levels = np.arange(len(ranks))
    best = np.full((len(ranks), full + 1), np.inf)
    left = np.zeros((len(ranks), full + 1), dtype=np.int64)
    for mask in range(1, full + 1):
        best[:, mask] = n[mask] * ranks[:, mask]
        low = mask & -mask
        if mask == low:
            continue
        parts = low | np.append(0, subsets(mask ^ low)[:-1])
        others = mask ^ parts
        cost = ranks[:, [mask]] * ranks[:, parts] * ranks[:, others] + best[:, parts] + best[:, others]
        place = cost.argmin(1)
        least = cost[levels, place]
        split = least < best[:, mask]
        best[:, mask] = np.where(split, least, best[:, mask])
        left[:, mask] = np.where(split, parts[place], 0)

    def read(level: int, mask: int) -> MaskTree:
        part = int(left[level, mask])
        return mask if part == 0 else (read(level, part), read(level, mask ^ part))

    return [_tree(read(level, full), n, float(best[level, full])) for level in range(len(ranks))]


def _leaves(tree: MaskTree) -> tuple[int, ...]:
    return (tree,) if isinstance(tree, int) else _leaves(tree[0]) + _leaves(tree[1])


def _nodes(tree: MaskTree) -> Iterator[MaskTree]:
    yield tree
    if not isinstance(tree, int):
        yield from _nodes(tree[0])
        yield from _nodes(tree[1])


def _whole(tree: MaskTree) -> int:
    return sum(_leaves(tree))


def tree_of_blocks(tree: MaskTree) -> MaskTree:
    """The same tree over the positions of its blocks, from left to right."""
    place = {block: k for k, block in enumerate(_leaves(tree))}

    def turn(node: MaskTree) -> MaskTree:
        return place[node] if isinstance(node, int) else (turn(node[0]), turn(node[1]))

    return turn(tree)


def _tree(tree: MaskTree, n: Array, score: float) -> Structure:
    nodes = list(_nodes(tree))
    where = {_whole(node): k for k, node in enumerate(nodes)}

    def cost(ranks: tuple[int, ...]) -> int:
        r = (1, *ranks)
        total = 0
        for k, node in enumerate(nodes):
            inside = int(n[node]) if isinstance(node, int) else r[where[_whole(node[0])]] * r[where[_whole(node[1])]]
            total += r[k] * inside
        return total

    return Structure(_leaves(tree), tuple(_whole(node) for node in nodes[1:]), cost, score, tree)


def cheap_groups(ranks: Array, sizes: Sequence[int]) -> list[Structure]:
    """The cheapest ways to merge atoms for a Tucker form, at each level and for each number of groups."""
    n, full = sizes_of_sets(sizes), 2 ** len(sizes) - 1
    found: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {}
    for groups in _partitions(full):
        if len(groups) == 1:
            continue
        inside = ranks[:, list(groups)]
        costs = inside.prod(1) + (inside * n[list(groups)]).sum(1)
        for level, cost in enumerate(costs):
            key = (level, len(groups))
            if key not in found or cost < found[key][0]:
                found[key] = (float(cost), groups)
    return [_group(groups, n, cost) for cost, groups in found.values()]


def _partitions(mask: int) -> Iterator[tuple[int, ...]]:
    """All partitions of a set, blocks by their lowest member."""
    if mask == 0:
        yield ()
        return
    low = mask & -mask
    for rest in np.append(0, subsets(mask ^ low)).tolist() if mask != low else [0]:
        block = low | rest
        for others in _partitions(mask ^ block):
            yield (block, *others)


def _group(groups: tuple[int, ...], n: Array, score: float) -> Structure:
    width = [int(n[g]) for g in groups]

    def cost(ranks: tuple[int, ...]) -> int:
        core = 1
        for r in ranks:
            core *= r
        return core + sum(w * r for w, r in zip(width, ranks, strict=True))

    return Structure(groups, groups, cost, score)
