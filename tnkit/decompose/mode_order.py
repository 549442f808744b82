"""Which order of the modes, and which merges and splits, need the fewest numbers: `permute=True`.

A cut of a chain or a tree depends only on the set of modes on one side. The spectra of all sets (of the modes, and of
factors of the large ones) are taken once, in a compressed array; dynamic programming over the sets gives the cheapest
structures at many levels of loss; their ranks are then chosen together, and the few best are fitted and measured. The
order that was given is always among them.

Example:
    >>> import torch, tnkit as tk
    >>> x = torch.einsum("ik,jl->ijkl", torch.eye(6), torch.eye(6))
    >>> tk.decompose(x, "tt", eps=1e-6).n_params, tk.decompose(x, "tt", eps=1e-6, permute=True).n_params
    (2664, 72)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tnkit.decompose.allowance import allowed2, floor2
from tnkit.decompose.base import Problem, Target
from tnkit.decompose.cut_spectra import MOST_ATOMS, Atoms, CutSpectra, grouped_modes, split_modes
from tnkit.decompose.nested import project_nested
from tnkit.decompose.rough import Rough, budget_caps
from tnkit.decompose.run import run, scaled
from tnkit.decompose.structures import (
    Structure,
    best_orders,
    cheap_chains,
    cheap_groups,
    cheap_trees,
    tree_of_blocks,
)
from tnkit.errors import BudgetError, RankError
from tnkit.formats import FormatSpec, HTSpec, Layout, LowRankSpec, TuckerSpec, tree_leaves, tree_nodes
from tnkit.formats.trees import tree_of
from tnkit.linalg import choose_ranks
from tnkit.report import FitReport
from tnkit.solvers import INTERRUPTED, Control
from tnkit.tensorize import Tensorization

__all__ = ["REORDERED", "run_reordered"]

#: Formats that are reordered, merged and split; of the others the given order is taken as it is.
REORDERED = ("tt", "tr", "ht", "tucker", "lowrank")

_LEVELS = 9  # of loss, at which the cheapest structures are sought
_HOPELESS = 2.0  # times the best size, beyond which a candidate is not fitted
_ESTIMATED = 14  # structures whose ranks are chosen together


@dataclass(frozen=True, slots=True)
class Candidate:
    """A structure over a reshaped and permuted array.

    Attributes:
        plan: from the user's array.
        spec: of the format over it.
        estimate: what to sort by: entries, or an error.
    """

    plan: Tensorization
    spec: FormatSpec
    estimate: float

    def layout(self) -> Layout:
        """The format over the user's shape."""
        inner = self.spec.layout(self.plan.out_shape)
        moves = self.plan.moves + (() if inner.tensorization is None else inner.tensorization.moves)
        whole = Tensorization(self.plan.shape, moves)
        return replace(inner, shape=self.plan.shape, tensorization=None if whole.is_identity else whole)


def run_reordered(
    x: Tensor,
    norm: float,
    spec: FormatSpec,
    layout: Layout,
    aim: Callable[[Layout], Target],
    *,
    method: Any = "auto",
    rng: torch.Generator,
    control: Control,
    dtype: torch.dtype | None = None,
    asked: str = "",
) -> FitReport:
    """Decompose in the best order of the modes that is found, with merges and splits; see `run`.

    Args:
        x: finite values of the user's shape.
        norm: as `require_finite` gives it.
        spec: the structure.
        layout: `spec.layout(x.shape)`.
        aim: the target for a layout; it may raise `BudgetError` or `RankError` where the layout cannot hold it.
        method: "auto", a name or a config.
        rng: random numbers.
        control: deadline and progress.
        dtype: of the result, where it is a half type.
        asked: the target in words.

    Returns:
        With eps the fewest numbers found, otherwise the least error; never worse than the given order. Ranks alone
        (an int) change the order only; with eps or a size, modes are also merged and split. Of more than 8 modes,
        neighbours move together in 8 groups (trains, rings and matrices only).

    Cost:
        the decomposition in the given order, spectra within about a second, and up to six decompositions more of a
        small array, one of an array above 10⁷ entries (twice as many for Tucker).
    """
    begun = time.perf_counter()

    def fitted(spec: FormatSpec, layout: Layout, target: Target) -> FitReport:
        return run(x, norm, spec, layout, target, method=method, rng=rng, control=control, dtype=dtype, asked=asked)

    target = aim(layout)
    best = given = fitted(spec, layout, target)
    if layout.name not in REORDERED:
        return replace(given, why=f"{given.why}; permute=True changes nothing for {layout.name}")
    with torch.no_grad():
        candidates = _candidates(x.detach(), norm, spec, layout, target, given, rng, control)
    tried, chosen, kept = 0, None, 0.0
    for candidate in candidates[: _count(x, given)]:
        if control.out_of_time or given.status == INTERRUPTED:
            break
        if target.eps is not None and kept * candidate.estimate > _HOPELESS * entries_of(best):
            continue
        other = candidate.layout()
        try:
            found = fitted(candidate.spec, other, _sooner(aim(other), best))
        except (BudgetError, RankError):
            continue
        tried += 1
        share = entries_of(found) / candidate.estimate
        kept = share if kept == 0.0 else min(kept, share)
        if _score(found, target) < _score(best, target):
            best, chosen = found, candidate
        if found.status == INTERRUPTED:
            break
    order = "as given" if chosen is None else f"{chosen.plan}{_words(chosen.spec)}"
    why = f"{best.why}; of {tried + 1} orders and merges the best: {order}"
    return replace(best, why=why, elapsed_s=time.perf_counter() - begun)


def entries_of(fit: FitReport) -> int:
    """Stored entries; a complex one counts once."""
    return sum(t.numel() for t in fit.tensor.tensors())


def _words(spec: FormatSpec) -> str:
    return f", tree {spec.tree}" if isinstance(spec, HTSpec) else ""


def _count(x: Tensor, given: FitReport) -> int:
    """How many candidates are fitted."""
    if given.tensor.name == "tr":  # iterative, and slow
        return 2 if x.numel() <= 2**18 else 1
    most = 6 if x.numel() <= 2**18 else 4 if x.numel() <= 2**20 else 2 if x.numel() <= 10**7 else 1
    return 2 * most if given.tensor.name == "tucker" else most  # its fits are quick, and its estimates rough


def _sooner(target: Target, best: FitReport) -> Target:
    """An iterative search need not look where a smaller result is known."""
    if target.eps is None or not best.status.ok or best.tensor.name != "tr":
        return target
    entries = entries_of(best) - 1
    return replace(target, max_params=entries if target.max_params is None else min(entries, target.max_params))


def _score(fit: FitReport, target: Target) -> tuple[float, float, float]:
    if target.eps is None:
        # errors that differ by rounding alone are equal
        return (0.0, float(f"{max(fit.rel_error, 1e-14):.9g}"), fit.n_params)
    if fit.rel_error <= target.eps * (1 + 1e-9) or fit.status.ok:
        return (0.0, fit.n_params, fit.rel_error)
    return (1.0, fit.rel_error, fit.n_params)


def _candidates(
    x: Tensor,
    norm: float,
    spec: FormatSpec,
    layout: Layout,
    target: Target,
    given: FitReport,
    rng: torch.Generator,
    control: Control,
) -> list[Candidate]:
    """Structures that are worth a fit, the best first; not the given one."""
    safe, safe_norm, _ = scaled(x, norm)
    if safe_norm == 0.0 or sum(n > 1 for n in x.shape) < 2:
        return []
    grouped = grouped_modes(x.shape) if sum(n > 1 for n in x.shape) > MOST_ATOMS else None
    if grouped is not None:
        if layout.name in ("ht", "tucker"):
            return []
        safe = safe.reshape(grouped.shape)
    tucker = TuckerSpec().layout(safe.shape)
    problem = Problem(safe, safe_norm, tucker, TuckerSpec(), replace(target, ranks=None), rng, control)
    core, bases, lost2 = _compressed(problem, layout, target)
    by_size = target.eps is not None or target.max_params is not None
    atoms = grouped or _atoms(x.shape, core.shape, split=by_size)
    if len(atoms.sizes) < 2:
        return []
    error2 = allowed2(problem)
    left2 = None if error2 is None else max(error2 - lost2, floor2(problem))
    cuts = CutSpectra(atoms, core, bases, left2)
    search = _Search(cuts, spec, layout, target, left2, _given_cuts(given, layout) if grouped is None else [])
    given_plan = _moves(layout.inner_plan)
    found = {_moves(c.plan): c for c in reversed(search.candidates())}
    return sorted(
        (c for moves, c in found.items() if moves != given_plan or isinstance(c.spec, HTSpec)), key=lambda c: c.estimate
    )


def _moves(plan: Tensorization) -> tuple[Any, ...]:
    return tuple(move[:2] for move in plan.moves)


def _given_cuts(given: FitReport, layout: Layout) -> list[tuple[set[int], int]]:
    """The cuts of the given order: the modes on one side, and the rank."""
    d = len(layout.inner_shape)
    if layout.name == "tt":
        sides = [set(range(k)) for k in range(1, d)]
    elif layout.name == "tucker":
        sides = [{k} for k in range(d)]
    elif layout.name == "ht":
        sides = [set(tree_leaves(node)) for node in tree_nodes(layout.static["tree"])][1:]
    else:
        return []
    return list(zip(sides, given.ranks, strict=True)) if given.status.ok else []


def _compressed(problem: Problem, layout: Layout, target: Target) -> tuple[Tensor, list[Tensor] | None, float]:
    """The array in bases of its modes, as far as what is asked allows: (core, bases or None, squared error)."""
    x, tucker = problem.x, problem.layout
    error2 = allowed2(problem)
    if error2 is None and x.numel() <= 2**16:
        return x, None, 0.0
    caps = tucker.caps
    if error2 is None:
        ranks = target.ranks
        size = target.max_params
        most = (4 * max(ranks, default=1) + 16) if ranks is not None else None
        if most is not None:
            caps = tuple(min(cap, most) for cap in caps)
        if size is not None:
            caps = budget_caps(caps, size, lambda r: sum(n * k for n, k in zip(x.shape, r, strict=True)))
    rough = Rough(error2, floor2(problem), x.ndim, False, problem.rng)
    limits = dict(zip(tucker.bonds, caps, strict=True))
    done = project_nested(x, tree_of(tucker.topology), limits, problem.norm**2, problem.rng, rough=rough)
    core, *bases = done.tensors
    return core, bases, done.lost2


def _atoms(shape: Sequence[int], ranks: Sequence[int], *, split: bool) -> Atoms:
    """The modes as atoms, the large ones split."""
    atoms = Atoms(tuple(shape), tuple((n,) if n > 1 else () for n in shape))
    return split_modes(shape, ranks) if split else atoms


class _Search:
    """The structures of one format over the cuts of one array."""

    def __init__(
        self,
        cuts: CutSpectra,
        spec: FormatSpec,
        layout: Layout,
        target: Target,
        left2: float | None,
        given: list[tuple[set[int], int]],
    ) -> None:
        self.cuts, self.spec, self.name, self.target, self.left2 = cuts, spec, layout.name, target, left2
        self.overstated = 0.5 if left2 is None or not given else self._overstated(given)

    def _overstated(self, given: list[tuple[set[int], int]]) -> float:
        """By how much the sum of the tails overstates the error, for each cut beyond the first, in the given fit."""
        assert self.left2 is not None
        owners, total = self.cuts.atoms.owners, 0.0
        for side, rank in given:
            mask = sum(1 << j for j, owner in enumerate(owners) if owner in side)
            tails = self.cuts.tails(mask)
            total += float(tails[min(rank, len(tails) - 1)])
        beyond = len(given) - 1
        return 0.0 if beyond < 1 else min(max((total / self.left2 - 1.0) / beyond, 0.0), 1.0)

    def candidates(self) -> list[Candidate]:
        """With estimates of their size, or of their error where only ranks or a size are given."""
        if self.target.eps is None and self.target.max_params is None:
            return self._orders()
        levels = self._levels()
        sizes, ranks = self.cuts.atoms.sizes, self.cuts.ranks(levels)
        if self.name == "ht":
            found = cheap_trees(ranks, sizes)
        elif self.name == "tucker":
            found = cheap_groups(ranks, sizes)
        else:
            found = cheap_chains(ranks, sizes, most_blocks=2 if self.name == "lowrank" else None)
        if self.name == "lowrank":
            found = [s for s in found if len(s.blocks) == 2]
        unique: dict[Any, Structure] = {}
        for s in sorted(found, key=lambda s: s.score):
            unique.setdefault(min(s.blocks, s.blocks[::-1]) if s.tree is None else s.tree, s)
        return [self._candidate(s) for s in self._promising(list(unique.values()))]

    def _levels(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        if self.left2 is not None:
            return self.left2 * np.geomspace(0.04, 1.0, _LEVELS)
        return self.cuts.norm2 * np.geomspace(1e-10, 0.5, 3 * _LEVELS)

    def _promising(self, found: list[Structure]) -> list[Structure]:
        """The best, with an estimate as their score."""
        size = self.target.max_params
        if self.left2 is None:
            assert size is not None
            found = [s for s in found if s.cost((1,) * len(s.cuts)) <= size]
            found.sort(key=lambda s: abs(np.log(s.score / size)))
        known = []
        for s in found[: _ESTIMATED if self.left2 is not None else 3 * _ESTIMATED]:
            spectra = [self.cuts.energies(c) for c in s.cuts]
            if self.left2 is not None:
                more = 1.0 + self.overstated * max(len(s.cuts) - 1, 0)
                caps = None if self.target.ranks is None else [max(self.target.ranks)] * len(s.cuts)
                caps = None if caps is None else [min(c, len(e)) for c, e in zip(caps, spectra, strict=True)]
                ranks = choose_ranks(spectra, s.cost, max_error2=self.left2 * more, caps=caps)
                known.append(replace(s, score=float(s.cost(ranks))))
            else:
                ranks = choose_ranks(spectra, s.cost, max_cost=size)
                lost = sum(float(e[r:].sum()) for e, r in zip(spectra, ranks, strict=True))
                known.append(replace(s, score=lost))
        return sorted(known, key=lambda s: s.score)

    def _orders(self) -> list[Candidate]:
        """Ranks alone: the order of the modes in which they lose least."""
        assert self.target.ranks is not None
        rank = max(self.target.ranks, default=1)
        lost = self.cuts.lost(rank)
        count = len(self.cuts.atoms.sizes)
        if self.name in ("tt", "tr"):
            return [self._candidate(s) for s in best_orders(lost, count)]
        if self.name == "lowrank":
            least = min(range(1, self.cuts.full), key=lambda mask: float(lost[mask]))
            pair = (least, self.cuts.full ^ least)
            return [self._candidate(Structure(pair, (least,), lambda _: 0, float(lost[least])))]
        return []

    def _candidate(self, s: Structure) -> Candidate:
        blocks = s.blocks
        if s.tree is None and blocks[::-1] < blocks and self.name != "lowrank":
            blocks = blocks[::-1]  # the same chain; the one that starts with the first modes is read more easily
        spec: FormatSpec = self.spec
        if s.tree is not None:
            spec = HTSpec(tree=tree_of_blocks(s.tree))
        elif self.name == "lowrank":
            spec = LowRankSpec(row_modes=1)
        return Candidate(
            self.cuts.atoms.plan(blocks, whole=self.name == "lowrank"),
            spec,
            s.score if s.score < inf else sqrt(self.cuts.norm2),
        )
