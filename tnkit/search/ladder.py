"""A ladder of ranks on several structures: which order of the modes, which shape of network, and which ranks.

For objectives without spectra (observed entries, a loss). Every structure starts at small ranks, all alike; structures
run against each other rung by rung, and those that stay behind are left. The best then grows one bond at a time, as in
Greedy-TN (arXiv 2008.05437), while its error falls.

Example:
    >>> import tnkit as tk
    >>> x = tk.random_format("tt", (5, 6, 7), 3, rng=0).to_dense()
    >>> tk.search(x, eps=1e-4, strategy="ladder").best.fit.n_params <= 110
    True
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tnkit.search.graph import Graph, chain, ring, star
from tnkit.search.objective import Trial
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting

__all__ = ["RankLadder", "binary_tree"]


@dataclass(frozen=True, slots=True)
class RankLadder(Proposer):
    """Race structures up a ladder of ranks.

    Attributes:
        orders: of the modes; the given one by default.
        shapes: of networks: "train", "ring", "tree" (binary, over the order) and "tucker" (up to five modes).
        merged: trains whose nodes hold several modes: the modes of each node, for each train.
        rungs: ranks.
        sizes: numbers, in place of ranks: at each rung every structure has the largest rank at which it takes no more.
        keep: the share of the structures that goes on to the next rung.
        gain: an error has fallen when it is below this share of the one before.
        raises: single bonds that grow at the most; 0 for none.
        steps: sweeps of each fit.
    """

    orders: tuple[tuple[int, ...], ...] = ()
    shapes: tuple[str, ...] = ("train", "ring", "tree", "tucker")
    merged: tuple[tuple[tuple[int, ...], ...], ...] = ()
    rungs: tuple[int, ...] = (2, 3, 4, 6, 8, 11, 15, 20, 27, 36, 48, 64)
    sizes: tuple[int, ...] = ()
    keep: float = 0.7
    gain: float = 0.995
    raises: int = 12
    steps: int = 40
    name: ClassVar[str] = "ladder"
    summary: ClassVar[str] = "trains, rings and trees over several orders, raced up a ladder of ranks, then grown"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        objective, shape = setting.objective, setting.shape
        firsts = {g.key: g for order in self.orders or (tuple(range(len(shape))),) for g in self.made(shape, order)}
        firsts |= {g.key: g for g in (self.joined(shape, nodes) for nodes in self.merged)}
        alive: list[Trial] = []
        trials = yield [Proposal(g, steps=self.steps) for g in firsts.values()]
        alive = sorted([t for t in trials if t is not None], key=lambda t: t.error)
        ended: list[Trial] = []
        for rung in self.sizes or self.rungs[1:]:
            alive = alive[: max(1, round(self.keep * len(alive)))]
            if not alive or objective.reached(alive[0].error):
                break
            made = [sized(t.graph, rung) if self.sizes else raised(t.graph, rung) for t in alive]
            same = [t for g, t in zip(made, alive, strict=True) if g.key == t.graph.key]  # the next rung is for them
            pairs = [(g, t) for g, t in zip(made, alive, strict=True) if g.key != t.graph.key]
            alive = [t for _, t in pairs]
            trials = yield [Proposal(g, t, steps=self.steps) for g, t in pairs]
            going: list[Trial] = []
            for before, after in zip(alive, trials, strict=True):
                if after is None or after.error > self.gain * before.error:
                    ended.append(before)
                if after is not None and after.error <= self.gain * before.error:
                    going.append(after)
            alive = sorted([*going, *same], key=lambda t: t.error)
        pool = sorted([*alive, *ended], key=objective.score)
        if pool:
            yield from self.grown(setting, pool[0])

    def made(self, shape: tuple[int, ...], order: Sequence[int]) -> list[Graph]:
        """The structures over one order, at the first rung."""
        d, rank = len(shape), self.rungs[0]
        found = []
        if "train" in self.shapes:
            found.append(raised(chain(shape, (rank,) * (d - 1), order), rank))
        if "ring" in self.shapes and d > 2:
            found.append(raised(ring(shape, (rank,) * d, order), rank))
        if "tree" in self.shapes and d > 3:
            found.append(raised(binary_tree(shape, order), rank))
        if "tucker" in self.shapes and 2 < d <= 5:
            found.append(raised(star(shape, (rank,) * d), rank))
        return found

    def joined(self, shape: tuple[int, ...], nodes: Sequence[tuple[int, ...]]) -> Graph:
        """A train whose nodes hold several modes, at the first rung."""
        rank = self.rungs[0]
        return raised(Graph(shape, nodes, {(k, k + 1): rank for k in range(len(nodes) - 1)}), rank)

    def grown(self, setting: Setting, best: Trial) -> Generator[list[Proposal], list[Trial | None], None]:
        """Single bonds by a quarter, the best of all at a time, while the error falls."""
        objective = setting.objective
        for _ in range(self.raises):
            if objective.reached(best.error):
                return
            now = best.graph
            options = [capped(now, now.with_rank(b, r + max(1, r // 4))) for b, r in now.ranks.items()]
            trials = yield [Proposal(g, best, steps=self.steps // 2) for g in options if g.key != now.key]
            known = [t for t in trials if t is not None]
            if not known:
                return
            better = min(known, key=lambda t: t.error)
            if better.error > self.gain * best.error:
                return
            best = better


def raised(graph: Graph, rank: int) -> Graph:
    """All bonds at a rank, but none above what the sizes on its sides can use.

    Example:
        >>> str(raised(chain((3, 9, 9), (2, 2)), 8))
        '0-1:3 1-2:8'
    """
    return capped(graph, graph.with_flat_ranks(max(rank, 2)))


def sized(graph: Graph, most: int) -> Graph:
    """All bonds at the largest rank at which there are no more numbers; never below what they are.

    Example:
        >>> str(sized(chain((9, 9, 9), (2, 2)), 160))
        '0-1:3 1-2:3'
    """
    best = graph
    while True:
        more = raised(best, max(best.ranks.values(), default=1) + 1)
        if more.n_params > most or more.key == best.key:
            return best
        best = more


def capped(old: Graph, graph: Graph) -> Graph:
    """No bond above what the rest of its node is; a bond of the old graph never goes."""
    while True:
        for bond, rank in graph.ranks.items():
            cap = min(graph.size(node) // rank for node in bond)
            if rank > max(cap, 2):
                graph = graph.with_rank(bond, max(cap, 2))
                break
        else:
            return graph


def binary_tree(shape: tuple[int, ...], order: Sequence[int]) -> Graph:
    """A balanced dimension tree with the modes, in an order, on its leaves; no root of two bonds.

    Example:
        >>> str(binary_tree((4, 4, 4, 4), (0, 2, 1, 3)))
        '0-+0:2 1-+1:2 2-+0:2 3-+1:2 +0-+1:2'
    """
    d = len(shape)
    nodes: list[tuple[int, ...]] = [(k,) for k in range(d)]
    bonds: dict[tuple[int, int], int] = {}

    def join(part: Sequence[int]) -> int:
        if len(part) == 1:
            return part[0]
        half = (len(part) + 1) // 2
        ends = join(part[:half]), join(part[half:])
        nodes.append(())
        here = len(nodes) - 1
        for end in ends:
            bonds[min(end, here), max(end, here)] = 2
        return here

    half = (d + 1) // 2
    a, b = join(order[:half]), join(order[half:])
    bonds[min(a, b), max(a, b)] = 2
    return Graph(shape, nodes, bonds)


STRATEGIES.register(RankLadder.name, RankLadder)
