"""Several searches one after the other, on one memory: what one has found, the next has to beat.

Example:
    >>> import tnkit as tk
    >>> x = tk.random_format("tr", (5, 5, 5, 5), 2, rng=0).to_dense()
    >>> tk.search(x, eps=1e-4, strategy="several").best.fit.n_params
    80
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tnkit.search.from_cuts import CutSearch
from tnkit.search.from_ranks import MatchedSearch
from tnkit.search.local import TnALE
from tnkit.search.loops import LoopSearch
from tnkit.search.proposer import STRATEGIES, Conversation, Proposer, Setting
from tnkit.search.trees import TreeSearch

__all__ = ["Several"]


@dataclass(frozen=True, slots=True)
class Several(Proposer):
    """Trees, graphs that match the ranks of all cuts, graphs with one loop, rings in any order, then any graph.

    Attributes:
        parts: the searches.
    """

    parts: tuple[Proposer, ...] = (
        TreeSearch(),
        MatchedSearch(otherwise=(LoopSearch(),)),
        TnALE(sweeps=3),
        TnALE("full", sweeps=3),
        CutSearch(candidates=2, seconds=2.0),
    )
    name: ClassVar[str] = "several"
    summary: ClassVar[str] = "trees, rings in any order and graphs with loops, one after the other"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        for part in self.parts:
            yield from part.propose(setting)


STRATEGIES.register(Several.name, Several)
