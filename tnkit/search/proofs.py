"""How far an answer can be from the best: bounds of the size at an error, and of the error at a size.

A network with relative error at most eps needs, at every cut of the modes, at least the rank at which that unfolding
alone loses eps. Three kinds are bounded:

- any tree: the cheapest one over all trees (`tree_bounds`);
- any network of tensors over these modes, with loops or not: the modes fall into groups, one for each tensor that has
  some; a tensor has at least as many numbers as its modes' sizes times the rank of their cut. The cheapest of all
  partitions of the modes is the bound; tensors without modes may cost nothing;
- networks with one tensor for each mode and none without (trains, rings, and any other bonds between them): there all
  cuts together bound the bonds, and a linear program their size (`format_bounds`). It is much closer, and a Tucker or a
  hierarchical tensor is not of that kind.

The first two are exact for what those ranks admit.

For a size, the largest error is sought at which the cheapest is still too large. Networks with fixed matrices (such as
a Fourier transform), and those of split modes, are not bounded.

Example:
    >>> import numpy as np
    >>> cheapest_network(np.full((1, 8), 2.0), (9, 9, 9))  # three modes of size 9, all cuts of rank 2
    array([54.])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import ceil, prod, sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tnkit.decompose.cut_spectra import CutSpectra
from tnkit.formats import Layout
from tnkit.search.format_bounds import least_size
from tnkit.search.graph import Graph
from tnkit.search.objective import Objective
from tnkit.search.tree_bounds import MOST_MODES, cheapest_trees

__all__ = ["ONE_EACH", "Proofs", "cheapest_network", "proofs"]

#: What is bounded by all cuts together.
ONE_EACH = "any network of one tensor a mode"

_CHEAP_MODES, _CHEAP_ENTRIES = 6, 2**21  # up to which spectra are taken for the bound alone
_LEVELS, _ROUNDS = 12, 3  # of the search for an error
_EXACT = 1e-12  # share of the energy below which spectra tell nothing

Array: TypeAlias = "NDArray[Any]"


@dataclass(frozen=True, slots=True)
class Proofs:
    """What is proved.

    Attributes:
        sizes: (what, the least size at the asked error).
        errors: (what, the least relative error at the asked size).
        why_none: where nothing is proved, why.
        ranks: (set of modes above 1 as a bit mask without the last, the least rank of that unfolding at the asked
            error).
    """

    sizes: tuple[tuple[str, int], ...] = ()
    errors: tuple[tuple[str, float], ...] = ()
    why_none: str = ""
    ranks: tuple[tuple[int, int], ...] = ()

    def of_real_numbers(self) -> Proofs:
        """Where entries are complex: each takes two numbers."""
        return replace(self, sizes=tuple((what, 2 * least) for what, least in self.sizes))

    def merged(self, other: Proofs) -> Proofs:
        """What either of two proved of the same array and question."""
        sizes, errors = dict(self.sizes), dict(self.errors)
        sizes |= {what: max(least, sizes.get(what, 0)) for what, least in other.sizes}
        errors |= {what: max(least, errors.get(what, 0.0)) for what, least in other.errors}
        why = self.why_none or other.why_none
        why = "" if sizes or errors else why
        ranks = self.ranks or other.ranks
        return Proofs(tuple(sorted(sizes.items())), tuple(sorted(errors.items())), why, ranks)


def proofs(objective: Objective, known: dict[str, int]) -> Proofs:
    """The bounds of a search.

    Args:
        objective: with spectra, and an eps or a size.
        known: bounds of the size that the search itself has proved.

    Cost:
        that of the spectra, where they are not taken yet; for large arrays or many modes nothing is proved then.
    """
    found = Proofs(tuple(sorted(known.items())))
    d = len(objective.shape)
    if not 2 <= d <= MOST_MODES:
        return found.merged(Proofs(why_none=f"bounds are made for 2 to {MOST_MODES} modes, here are {d}"))
    cuts = objective.cuts
    if cuts is None:
        return found.merged(Proofs(why_none="the search took no spectra of the cuts"))
    if not cuts.complete and (d > _CHEAP_MODES or prod(objective.shape) > _CHEAP_ENTRIES):
        return found.merged(Proofs(why_none='the spectra of all cuts were not taken; strategy="trees" takes them'))
    shape = objective.shape

    def trees(levels: Array) -> Array:
        return np.array([size for size, _ in cheapest_trees(cuts.ranks(levels), shape)])

    def networks(levels: Array) -> Array:
        return cheapest_network(cuts.ranks(levels), shape)

    if objective.eps is not None:
        level = np.array([1.001 * max(objective.eps**2, _EXACT) * cuts.norm2])
        table = cuts.ranks(level)[0]
        ranks = tuple((mask, int(table[mask])) for mask in range(1, (cuts.full + 1) // 2))
        sizes = {"any network": ceil(float(networks(level)[0]) - 1e-6)}
        sizes[ONE_EACH] = ceil(least_size(_every_bond(shape), dict(ranks)) - 1e-6)
        if "any tree" not in known and d <= _CHEAP_MODES:
            sizes["any tree"] = ceil(float(trees(level)[0]) - 1e-6)
        found = found.merged(Proofs(tuple(sizes.items()), ranks=ranks))
    if objective.eps is None and objective.max_params is not None:
        allowed = objective.max_params
        errors = {"any network": _error(cuts, networks, allowed)}
        if d <= _CHEAP_MODES:
            errors["any tree"] = _error(cuts, trees, allowed)
        found = found.merged(Proofs(errors=tuple(errors.items())))
    return found


def _every_bond(shape: Sequence[int]) -> Layout:
    """One tensor for each mode, and a bond between any two."""
    d = len(shape)
    every = dict.fromkeys(combinations(range(d), 2), 2)
    return Graph(shape, [(k,) for k in range(d)], every).layout()


def cheapest_network(ranks: Array, sizes: Sequence[int]) -> Array:
    """For each level a size below which no network over the modes is.

    Args:
        ranks: (levels, sets): the rank of each cut by the set of modes on one side, a bit mask.
        sizes: of the modes.
    """
    full = 2 ** len(sizes) - 1
    cost = np.zeros((full + 1, len(ranks)))
    for mask in range(1, full + 1):
        low, rest = mask & -mask, mask ^ (mask & -mask)
        least, part = np.full(len(ranks), np.inf), rest
        while True:
            block = low | part
            own = prod(n for k, n in enumerate(sizes) if block >> k & 1) * (ranks[:, block] if block != full else 1.0)
            least = np.minimum(least, own + cost[mask ^ block])
            if part == 0:
                break
            part = (part - 1) & rest
        cost[mask] = least
    found: Array = cost[full]
    return found


def _error(cuts: CutSpectra, cheapest: Callable[[Array], Array], allowed: int) -> float:
    """The largest relative error that is proved to be missed at a size; 0 where none is."""
    low, high = _EXACT, 1.0
    if float(cheapest(np.array([low * cuts.norm2]))[0]) <= allowed:
        return 0.0
    for _ in range(_ROUNDS):
        levels = np.geomspace(low, high, _LEVELS)
        too_large = np.flatnonzero(cheapest(levels * cuts.norm2) > allowed)
        at = int(too_large[-1])
        low, high = float(levels[at]), float(levels[min(at + 1, _LEVELS - 1)])
    return sqrt(low) * (1 - 1e-3)
