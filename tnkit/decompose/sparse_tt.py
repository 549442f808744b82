"""Tensor train of a sparse array: TT-SVD on the distinct tuples of indices, without the dense array.

The unfolding after mode k has a row for each pair of a bond and an index, and a column for each distinct tuple of the
indices that follow: no more of them than entries. Each step projects it on the leading basis of its columns, so that a
dense fibre is left for each tuple; the squared errors add up (Oseledets 2011, doi:10.1137/090752286, algorithm 1; for
sparse arrays Li, Yu & Batselier, doi:10.1109/TNNLS.2020.3030501).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import ClassVar

from torch import Tensor

from tnkit.decompose.peeling import flip
from tnkit.decompose.rough import SMALL, budget_caps
from tnkit.decompose.sparse_error import sparse_error
from tnkit.decompose.sparse_method import Found, SparseMethod, SparseProblem
from tnkit.decompose.train_svd import Train
from tnkit.formats import TT
from tnkit.formats.rank_plan import RankPlan, Truncated
from tnkit.formats.trees import tree_of
from tnkit.linalg import BlockSparse, energy, group_rows, leading_part
from tnkit.registry import METHODS
from tnkit.sources import SparseTensor

__all__ = ["SparseTT", "sparse_train"]

#: The share of the squared error that is allowed which the rough train may lose before ranks are chosen together.
SHARE = 0.3
#: Ranks are traded by true errors in trains of at most so many entries.
THOROUGH = 2**20


@dataclass(frozen=True, slots=True)
class SparseTT(SparseMethod):
    """TT-SVD on coordinates.

    By ranks the error is at most √(d−1) times the best. With eps or a budget a train is made first that loses a part
    of what is allowed; its ranks are then chosen together.

    Example:
        >>> import tnkit as tk
        >>> x = tk.SparseTensor([[0, 0, 9], [0, 1, 9], [7, 1, 3]], [1.0, 1.0, 2.0], shape=(10**5, 10**4, 10**3))
        >>> fit = tk.decompose(x, "tt", eps=1e-3)
        >>> fit.method, fit.ranks
        ('sparse_tt', (2, 2))
    """

    name: ClassVar[str] = "sparse_tt"
    formats: ClassVar[tuple[str, ...]] = ("tt",)
    summary: ClassVar[str] = "TT-SVD on the coordinates of a sparse array, without making it dense"

    def find(self, problem: SparseProblem) -> Found:
        """See `SparseMethod.find`.

        Cost: some ten products of nnz r numbers with a basis for each mode, and the singular values of the train.
        """
        target, x = problem.asked.target, problem.x
        if target.eps is None and target.max_params is None:
            train = sparse_train(problem, problem.asked.max_ranks, None)
            return Found(tuple(train.cores), train.lost2)
        caps, allowed = problem.asked.max_ranks, problem.allowed2
        small = prod(x.shape) <= SMALL
        if allowed is None and not small:
            assert target.max_params is not None
            caps = budget_caps(caps, target.max_params, problem.asked.layout.n_params)
        tail2 = problem.floor2 if small or allowed is None else max(SHARE * allowed, problem.floor2)
        train = sparse_train(problem, caps, tail2 / max(1, x.ndim - 1))
        if x.ndim == 1:
            return Found(tuple(train.cores), train.lost2)
        done = _truncated(problem, train, caps)
        return Found(done.tensors, (sqrt(train.lost2) + sqrt(done.lost2)) ** 2)


def sparse_train(problem: SparseProblem, caps: Sequence[int], tail2: float | None) -> Train:
    """The train of a sparse array, from the end whose mode is larger.

    Args:
        problem: the array.
        caps: the largest ranks of the cuts.
        tail2: the squared error that each cut may make; None for the ranks themselves.

    Returns:
        cores for the shape of `problem.x`. `lost2` holds what rounding may add to it.
    """
    x = problem.x
    if x.shape[0] >= x.shape[-1]:
        return _peeled(problem, x, caps, tail2)
    sizes = x.shape[::-1]
    groups = group_rows(x.indices.flip(1), sizes)
    turned = x.with_values(x.values[groups.order]).with_indices(groups.rows, sizes)
    train = _peeled(problem, turned, tuple(caps)[::-1], tail2)
    return Train(flip(train.cores), train.lost2, train.certain)


def _peeled(problem: SparseProblem, x: SparseTensor, caps: Sequence[int], tail2: float | None) -> Train:
    table, blocks = x.indices, x.values[:, None]
    cores, lost2, certain = list[Tensor](), 0.0, True
    for k, cap in enumerate(caps):
        groups = group_rows(table[:, 1:], x.shape[k + 1 :])
        columns = groups.target.new_empty(table.shape[0])
        columns[groups.order] = groups.target
        matrix = BlockSparse(table[:, 0].contiguous(), columns, blocks, x.shape[k], groups.count)
        part = leading_part(matrix, max_rank=cap, tail2=tail2, norm2=energy(blocks), gen=problem.asked.rng)
        cores.append(part.basis.reshape(x.shape[k], blocks.shape[1], -1).movedim(1, 0).contiguous())
        lost2 += part.lost2 + part.noise2
        certain = certain and part.noise2 < 1e-3 * part.lost2
        table, blocks = groups.rows, part.rest.mT.contiguous()
    last = blocks.new_zeros((x.shape[-1], blocks.shape[1]))
    last[table[:, 0]] = blocks
    return Train([*cores, last.mT[:, :, None].contiguous()], lost2, certain)


def _truncated(problem: SparseProblem, train: Train, caps: Sequence[int]) -> Truncated:
    """The train with ranks chosen together; entries are counted for the whole array, with its empty slices."""
    layout, target, allowed = problem.asked.layout, problem.asked.target, problem.allowed2
    tree, sizes = tree_of(layout.topology), layout.sizes
    plan = RankPlan(
        tree,
        train.cores,
        layout.bonds,
        caps=tuple(caps),
        max_params=target.max_params,
        thorough=sum(c.numel() for c in train.cores) <= THOROUGH,
        sizes={label: sizes[label] for label in layout.topology.output},
    )
    if allowed is None:
        return plan.best(None)
    # two errors of which one is no projection of the other add up to no more than this; mostly their squares add up
    safe2 = max(sqrt(allowed) - sqrt(train.lost2), 0.0) ** 2
    hoped2 = allowed - train.lost2
    if train.lost2 > 1e-4 * allowed and hoped2 > 0:
        for error2 in (hoped2, sqrt(hoped2 * max(safe2, problem.floor2))):
            done = plan.best(error2)
            error, kind = sparse_error(problem.x, TT(done.tensors))
            if kind == "exact" and error * problem.norm <= sqrt(allowed):
                return done
    return plan.best(max(safe2, problem.floor2))


METHODS.register(SparseTT.name, SparseTT)
