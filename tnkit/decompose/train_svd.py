"""Trains of a dense array: by ranks, by an error, by a size. TT-SVD, TT matrices and tensor rings share this.

By ranks: blocks of modes are peeled off the cheaper end (see `peeling`), each with one orthogonal projection, so the
squared errors add up exactly (Oseledets 2011, doi:10.1137/090752286, algorithm 1).

By error or size: first a rough train at a tighter tolerance, with ranks that are larger than needed where that is
cheap. In it all spectra are known and the ranks are chosen together (`RankPlan`). Then the array is projected on the
first block of that train once more, which makes the error exact, and what is left of the budget is spent again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tnkit.decompose.peeling import (
    Block,
    contract_train,
    inner_train,
    plain_train,
    project_rows,
    thick_block,
)
from tnkit.decompose.rough import SMALL, Rough, budget_caps
from tnkit.formats.chains import chain_topology
from tnkit.formats.rank_plan import RankPlan, Truncated
from tnkit.formats.trees import tree_of
from tnkit.linalg import gram, sketched_range, split

__all__ = ["Train", "TrainLimits", "fit_train", "train_by_ranks"]

_THICK = 64  # columns from which a block is worth a pass
_TRIES = 4


@dataclass(frozen=True, slots=True)
class TrainLimits:
    """What a train has to keep.

    Attributes:
        caps: the largest rank of each cut.
        error2: the squared error that is allowed.
        max_params: entries that may be stored.
        floor2: the squared error that rounding leaves.
    """

    caps: tuple[int, ...]
    error2: float | None = None
    max_params: int | None = None
    floor2: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Train:
    """Cores (r_k, n_k, r_{k+1}) with r_0 = r_d = 1, and the squared error.

    Attributes:
        cores: the cores.
        lost2: the squared error.
        certain: whether that number is more than rounding.
    """

    cores: list[Tensor]
    lost2: float
    certain: bool

    @property
    def ranks(self) -> tuple[int, ...]:
        """Of the cuts."""
        return tuple(core.shape[2] for core in self.cores[:-1])


def train_by_ranks(x: Tensor, ranks: Sequence[int], norm2: float, gen: torch.Generator) -> Train:
    """The train of these ranks (less where the shape admits less).

    Args:
        x: contiguous.
        ranks: of the d − 1 cuts.
        norm2: ‖x‖².
        gen: random numbers for sketches.

    Returns:
        quasi-optimal: the error is at most √(d−1) times the best at these ranks. Differentiable in `x`.

    Cost:
        a read or two of `x` and 2 N r flops where the ranks are small.
    """
    if x.ndim == 1:
        return Train([x.reshape(1, -1, 1)], 0.0, True)
    block, inner = thick_block(x.shape, ranks, plain_only=x.requires_grad)
    a = block.matrix(x)
    cut = ranks[-block.count] if block.right else ranks[block.count - 1]
    rank = min(cut, *a.shape)
    quick = _from_sketch(x, block, rank, block.inner(ranks), norm2, gen) if inner else None
    if quick is not None:
        cores, rest, lost, certain = quick
    else:
        if rank == a.shape[1]:
            rows, rest, lost, certain = torch.eye(rank, dtype=x.dtype, device=x.device), a, 0.0, True
        else:
            part = split(a, max_rank=rank, norm2=norm2, side="right", rng=gen)
            rows, rest, lost, certain = part.basis.mH, part.rest, part.discarded2, part.certain
        cores = plain_train(block.to_chain(rows, x))
        if inner:
            weight = torch.linalg.qr(rest, mode="r").R
            cores = inner_train(block.to_chain(weight @ rows, x), block.inner(ranks))
            done = project_rows(a, block.from_chain(contract_train(cores)), norm2)
            rest, lost, certain = done.rest, done.lost2, done.certain
    left = train_by_ranks(block.merged(rest, x), block.others(ranks), max(norm2 - lost, 0.0), gen)
    return Train(block.join(left.cores, cores), lost + left.lost2, _both(lost, certain, left))


def _from_sketch(
    x: Tensor, block: Block, rank: int, cuts: Sequence[int], norm2: float, gen: torch.Generator
) -> tuple[list[Tensor], Tensor, float, bool] | None:
    """A block's train straight from a sketch, one projection on it, and a check; None where that is not good enough.

    Returns:
        cores of the block, what is left, the squared error, and whether that is certain.
    """
    a = block.matrix(x)
    seen = sketched_range(a.mT, rank, norm2, gen)
    if seen is None:
        return None
    cores = inner_train(block.to_chain(seen.weighted.mT, x), cuts)
    rows = block.from_chain(contract_train(cores))
    done = project_rows(a, rows, norm2)
    s2, u = torch.linalg.eigh(gram(done.rest.mT, precise=True))
    if not seen.suffices(a.mT, rows.mH, done.rest.mT, s2.flip(0).clamp_min(0), u.flip(1), done.lost2, gen):
        return None
    return cores, done.rest, done.lost2, done.certain


def _both(lost: float, certain: bool, other: Train) -> bool:
    """Whether a sum of two errors is certain: both are, or the one that is dwarfs the other."""
    if certain and other.certain:
        return True
    return (certain and other.lost2 < 1e-3 * lost) or (other.certain and lost < 1e-3 * other.lost2)


def fit_train(
    x: Tensor, limits: TrainLimits, norm2: float, gen: torch.Generator, cost: Callable[[tuple[int, ...]], int]
) -> Train:
    """The smallest train within the limits; caps alone give those ranks.

    Args:
        x: contiguous.
        limits: see there.
        norm2: ‖x‖².
        gen: random numbers for sketches.
        cost: entries at given ranks.
    """
    if x.ndim == 1 or (limits.error2 is None and limits.max_params is None):
        return train_by_ranks(x, limits.caps, norm2, gen)
    with torch.no_grad():
        found = _Fit(x.detach(), limits, norm2, gen, cost).best()
    if x.requires_grad and torch.is_grad_enabled():
        return train_by_ranks(x, found.ranks, norm2, gen)
    return found


class _Fit:
    """The search for the smallest train under a budget."""

    def __init__(
        self, x: Tensor, limits: TrainLimits, norm2: float, gen: torch.Generator, cost: Callable[[tuple[int, ...]], int]
    ) -> None:
        self.x, self.limits, self.norm2, self.gen, self.cost = x, limits, norm2, gen, cost
        self.caps = limits.caps
        small = x.numel() <= SMALL
        if limits.error2 is None and limits.max_params is not None and not small:
            self.caps = budget_caps(limits.caps, limits.max_params, cost)
        self.block = _rough_block(x.shape)
        rough = Rough(limits.error2, limits.floor2, x.ndim, small, gen)
        self.rough = _rough_train(x, self.caps, rough, norm2, self.block)
        topology = chain_topology(x.ndim)
        bonds = [f"r{k}" for k in range(1, x.ndim)]
        root = 0 if self.block.right else x.ndim - 1
        self.plan = RankPlan(
            tree_of(topology),
            self.rough.cores,
            bonds,
            root=root,
            caps=self.caps,
            max_params=limits.max_params,
            thorough=True,
        )
        self.rough = Train(self.plan.nodes, self.rough.lost2, True)  # one of the two is enough, they may be large

    def best(self) -> Train:
        error2 = self.limits.error2
        if error2 is None:
            return self.exact(None, {})
        budget = max(error2 - self.rough.lost2, self.limits.floor2)
        best: Train | None = None
        low, high, step = 0.0, float("inf"), 1.05
        seen: dict[tuple[int, ...], Train] = {}
        for _ in range(_TRIES):
            found = self.exact(budget, seen)
            fits = found.lost2 <= error2 and self.within(found)
            if fits and (best is None or self.cost(found.ranks) < self.cost(best.ranks)):
                best = found
            if not fits and best is None and not self.can_grow(found, error2):
                return found
            if fits and (found.lost2 >= 0.98 * error2 or self.rough.lost2 <= 1e-5 * error2):
                break
            low, high = (budget, high) if fits else (low, budget)
            # what the array loses beyond the plan hardly depends on the plan
            slack = error2 - found.lost2
            aim = budget + (slack if fits else step * min(slack, -0.002 * error2))
            step = step if fits else 5.0 * step
            budget = aim if low < aim < high else 0.5 * (low + high) if high < float("inf") else aim
            if budget <= max(low * 1.01, self.limits.floor2):
                break
        if best is not None:
            return best
        return self.rough if self.rough.lost2 <= error2 and self.within(self.rough) else found

    def within(self, found: Train) -> bool:
        size = self.limits.max_params
        return size is None or self.cost(found.ranks) <= size

    def can_grow(self, found: Train, error2: float) -> bool:
        """Whether a smaller budget can give a smaller error: the rough train itself reaches it."""
        return self.rough.lost2 <= error2 and found.ranks != self.rough.ranks and self.limits.max_params is None

    def exact(self, budget: float | None, seen: dict[tuple[int, ...], Train]) -> Train:
        """The train of a plan, projected on the array itself unless the rough train is the array."""
        plan = self.plan.best(budget)
        if plan.ranks not in seen:
            seen[plan.ranks] = self._exact(plan)
        return seen[plan.ranks]

    def _exact(self, plan: Truncated) -> Train:
        cores = list(plan.tensors)
        if self.rough.lost2 <= 1e-5 * plan.lost2 or self.rough.lost2 <= self.limits.floor2:
            lost = plan.lost2 + self.rough.lost2
            return Train(cores, lost, lost > 4 * self.limits.floor2)
        chain = self.block.chain(cores)
        rows = self.block.from_chain(contract_train(chain))
        done = project_rows(self.block.matrix(self.x), rows, self.norm2)
        rest, norm2 = self.block.merged(done.rest, self.x), max(self.norm2 - done.lost2, 0.0)
        left = train_by_ranks(rest, self.block.others(plan.ranks), norm2, self.gen)
        return Train(self.block.join(left.cores, chain), done.lost2 + left.lost2, _both(done.lost2, done.certain, left))


def _rough_block(shape: Sequence[int]) -> Block:
    """The end with fewer columns, of at least `_THICK` where there are so many."""
    found = []
    for right in (True, False):
        columns = 1
        for count in range(1, len(shape)):
            columns *= shape[-count] if right else shape[count - 1]
            if columns >= _THICK or count == len(shape) - 1:
                found.append((columns, not right, Block(count, right)))
                break
    return min(found)[2]


def _rough_train(
    x: Tensor, caps: Sequence[int], rough: Rough, norm2: float, block: Block | None = None, spent2: float = 0.0
) -> Train:
    """A train that is as exact as is cheap."""
    if x.ndim == 1:
        return Train([x.reshape(1, -1, 1)], 0.0, True)
    block = _rough_block(x.shape) if block is None else block
    a = block.matrix(x)
    cap = caps[-block.count] if block.right else caps[block.count - 1]
    rank, lost = min(cap, *a.shape), 0.0
    if rank < a.shape[1] or rough.error2 is not None:
        part = rough.split(a, rank, norm2, spent2, "right")
        rows, rest, lost = part.basis.mH, part.rest, part.lost2
    else:
        rows, rest = torch.eye(rank, dtype=x.dtype, device=x.device), a
    cores = plain_train(block.to_chain(rows, x))
    rest, others = block.merged(rest, x), block.others(caps)
    left = _rough_train(rest, others, rough, max(norm2 - lost, 0.0), None, spent2 + lost)
    return Train(block.join(left.cores, cores), lost + left.lost2, True)
