"""Output-directed search: a network as a program of splits of the array, estimated before it is run.

A program begins with the array as one node and splits nodes, one after the other; each split is a cut of the modes. Its
cost is estimated from the spectra of the cuts alone: which ranks, of some bins of each spectrum, keep the discarded
energy within eps at the least size. Programs that are the same set of cuts are one. A beam keeps the best of each
length; the best of all are run with real SVDs and rounded from every node.

The paper chooses the ranks by an integer program; here it is the joint choice that every tree fit of tnkit uses.

Reference: Guo, Wang, Kapadia, Dang, Liu, arXiv 2502.02711.

Example:
    >>> import tnkit as tk
    >>> x = tk.random_format("ht", (6, 6, 6, 6), 2, rng=0).to_dense()
    >>> tk.search(x, eps=1e-6, strategy="synthesis").best.fit.n_params <= 80
    True
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from tnkit.search.graph import Bond, Graph
from tnkit.search.objective import DenseObjective
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting
from tnkit.search.trees import TreeSearch

__all__ = ["Synthesis", "tree_of_cuts"]

Cuts: TypeAlias = "frozenset[int]"  # sets of modes without the last one, as bit masks

_MOST = 12  # modes


@dataclass(frozen=True, slots=True)
class Synthesis(Proposer):
    """Beam search over programs of splits.

    Attributes:
        beam: programs that are kept of each length.
        runs: programs that are run.
        length: splits at the most; by default as many as a tree admits.
    """

    beam: int = 12
    runs: int = 6
    length: int | None = None
    name: ClassVar[str] = "synthesis"
    summary: ClassVar[str] = "programs of output-directed splits, costed by the spectra of the cuts (arXiv 2502.02711)"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        objective, d = setting.objective, len(setting.shape)
        if not isinstance(objective, DenseObjective) or objective.cuts is None or d > _MOST:
            return
        estimate = TreeSearch().estimate
        known: dict[Cuts, float] = {}
        beam: list[Cuts] = [frozenset()]
        for _ in range(self.length or 2 * d - 3):
            longer = {cuts | {cut} for cuts in beam for cut in splits_of(cuts, d)}
            found = {cuts: estimate(tree_of_cuts(setting.shape, cuts), objective) for cuts in longer}
            if not found:
                break
            known |= found
            beam = sorted(found, key=lambda cuts: (found[cuts], sorted(cuts)))[: self.beam]
        programs = sorted(known, key=lambda cuts: (known[cuts], len(cuts), sorted(cuts)))[: self.runs]
        for cuts in programs:
            yield [Proposal(tree_of_cuts(setting.shape, cuts), free_ranks=True)]


def splits_of(cuts: Cuts, d: int) -> Iterable[int]:
    """The cuts that a program can make next: those that cross none of its own."""
    for cut in range(1, 2 ** (d - 1)):
        if cut not in cuts and all(cut & c in (0, cut, c) for c in cuts):
            yield cut


def tree_of_cuts(shape: tuple[int, ...], cuts: Cuts) -> Graph:
    """The tree whose bonds are these cuts, with rank 2 for each.

    Args:
        shape: of the modes.
        cuts: of which no two cross: each two are nested or apart.

    Example:
        >>> str(tree_of_cuts((4, 4, 4, 4), frozenset({1, 3, 7})))
        '0-1:2 1-2:2 2-3:2'
    """
    whole = 2 ** len(shape) - 1
    order = [whole, *sorted(cuts, key=lambda c: (-c.bit_count(), c))]
    above = {c: min((o for o in order if o != c and c & o == c), key=int.bit_count) for c in order[1:]}
    own = {c: c for c in order}
    for c, up in above.items():
        own[up] &= ~c
    nodes = {c: tuple(k for k in range(len(shape)) if own[c] >> k & 1) for c in order}
    ranked = sorted(order, key=lambda c: (not nodes[c], nodes[c], c))
    place = {c: j for j, c in enumerate(ranked)}
    bonds: dict[Bond, int] = {}
    for c, up in above.items():
        bonds[min(place[c], place[up]), max(place[c], place[up])] = 2
    return Graph(shape, [nodes[c] for c in ranked], bonds)


STRATEGIES.register(Synthesis.name, Synthesis)
