"""Many arrays of one shape at once, all at the same ranks: batched kernels in place of a loop.

Formats have no batch axes. A batch is one format whose leaves are stacked along a new first axis, which is what
`torch.func.vmap` takes apart again: every function of a format is a function of a batch under vmap.

References: Oseledets 2011, doi:10.1137/090752286 (TT-SVD); Vannieuwenhoven, Vandebril & Meerbergen 2012,
doi:10.1137/110836067 (ST-HOSVD).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree

from tnkit.arrays import ArrayLike, as_tensor, require_finite
from tnkit.errors import OptionError, ShapeError
from tnkit.formats import TT, Format, FormatSpec, Layout, RankLike, Tucker, as_spec, resolve_ranks
from tnkit.linalg import batched_split

__all__ = ["BatchFit", "decompose_batch"]


@dataclass(frozen=True, slots=True, eq=False)
class BatchFit:
    """A batch of decompositions.

    Attributes:
        stacked: one format whose tensors have the batch as their first axis: for `torch.func.vmap`, not for use as it
            is.
        rel_errors: (B,) in float64, the relative Frobenius error of each item.
        ranks: the same for all.
    """

    stacked: Format
    rel_errors: Tensor
    ranks: tuple[int, ...]

    def __len__(self) -> int:
        """How many there are."""
        return self.rel_errors.shape[0]

    def __getitem__(self, item: int) -> Format:
        """One of them, as a format."""
        found: Format = _pytree.tree_map(lambda t: t[item], self.stacked)
        return found

    def to_dense(self) -> Tensor:
        """All of them: (B, *shape)."""
        dense: Tensor = torch.func.vmap(lambda value: value.to_dense())(self.stacked)
        return dense


def decompose_batch(x: ArrayLike, format: str | FormatSpec, *, rank: RankLike) -> BatchFit:
    """Decompose every x[b] into a train or Tucker tensor of the same ranks.

    Args:
        x: (B, *shape). It is not changed.
        format: "tt" or "tucker".
        rank: as for `decompose`, for arrays of `shape`. (An eps would give every item its own ranks: loop for that.)

    Returns:
        a `BatchFit`; its formats are quasi-optimal: within √(d−1) of the best for trains, √d for Tucker.

    Raises:
        OptionError: another format.
        ShapeError: no batch axis, or no mode beside it.
        RankError: ranks that the shape does not admit.
        DataError: NaN or infinite values, or no entries.

    Cost:
        for each bond one batched QR or SVD of the unfoldings; where gradients are asked for, one item at a time.

    Example:
        >>> import torch, tnkit as tk
        >>> x = torch.stack([tk.random_format("tt", (4, 5, 6), 2, rng=k).to_dense() for k in range(3)])
        >>> fit = tk.decompose_batch(x, "tt", rank=2)
        >>> len(fit), fit[1].ranks, bool((fit.rel_errors < 1e-12).all())
        (3, (2, 2), True)
        >>> torch.func.vmap(lambda value: value.norm())(fit.stacked).shape
        torch.Size([3])
    """
    tensor = as_tensor(x).tensor
    if tensor.ndim < 2:
        raise ShapeError(f"x of shape {tuple(tensor.shape)} needs a batch axis and at least one mode: (B, n, …).")
    require_finite(tensor)
    layout = as_spec(format).layout(tuple(tensor.shape[1:]))
    if layout.format not in (TT, Tucker):
        raise OptionError(
            f"decompose_batch makes 'tt' and 'tucker', not {layout.name!r}. Loop over decompose for that."
        )
    ranks = resolve_ranks(layout, rank)
    parts = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    largest = parts.abs().reshape(len(tensor), -1).amax(1)
    unit = torch.where(largest > 0, largest, torch.ones_like(largest)).reshape(-1, *(1,) * (tensor.ndim - 1))
    fit = _trains if layout.format is TT else _tuckers
    tensors, lost2 = fit(tensor / unit, ranks)
    whole = _energies(tensor.detach() / unit)
    errors = (lost2 / torch.where(whole > 0, whole, torch.ones_like(whole))).sqrt()
    centre = len(tensors) - 1 if layout.format is TT else 0  # what is no isometry
    scale = unit.reshape(-1, *(1,) * (tensors[centre].ndim - 1))
    tensors[centre] = tensors[centre] * scale
    return BatchFit(_stacked(layout, tensors), errors, layout.ranks_of([t[0] for t in tensors]))


def _stacked(layout: Layout, tensors: Sequence[Tensor]) -> Format:
    one = layout.build([t[0] for t in tensors])
    return one.with_tensors(tensors)


def _energies(x: Tensor) -> Tensor:
    """‖x[b]‖², float64."""
    wide = torch.complex128 if x.is_complex() else torch.float64
    found: Tensor = torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1, dtype=wide).square()
    return found.real.to(torch.float64)


def _trains(x: Tensor, ranks: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """TT-SVD from the left; the energies that the cuts discard add up."""
    batch, *shape = x.shape
    cores, lost2, before = [], x.new_zeros(batch, dtype=torch.float64).real, 1
    for n, rank in zip(shape[:-1], ranks, strict=True):
        matrix = x.reshape(batch, before * n, -1)
        basis, x, lost = _cut(matrix, rank)
        cores.append(basis.reshape(batch, before, n, -1))
        lost2, before = lost2 + lost, basis.shape[2]
    return [*cores, x.reshape(batch, before, shape[-1], 1)], lost2


def _tuckers(x: Tensor, ranks: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """ST-HOSVD, the smallest mode first."""
    batch, core = x.shape[0], x
    factors: dict[int, Tensor] = {}
    lost2 = x.new_zeros(batch, dtype=torch.float64).real
    for mode in sorted(range(x.ndim - 1), key=lambda k: x.shape[k + 1]):
        turned = core.movedim(mode + 1, 1)
        basis, rest, lost = _cut(turned.reshape(batch, turned.shape[1], -1), ranks[mode])
        core = rest.reshape(batch, -1, *turned.shape[2:]).movedim(1, mode + 1)
        factors[mode], lost2 = basis, lost2 + lost
    return [core.contiguous(), *(factors[mode] for mode in range(x.ndim - 1))], lost2


def _cut(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bases (B, m, r), the rest (B, r, n), and the energies that are lost."""
    rank = min(rank, *matrix.shape[1:])
    if rank == matrix.shape[1]:
        eye = torch.eye(rank, dtype=matrix.dtype, device=matrix.device)
        return eye.expand(len(matrix), -1, -1).contiguous(), matrix, _energies(matrix) * 0
    basis, rest = batched_split(matrix, rank)
    return basis, rest, _energies((matrix - basis @ rest).detach())
