"""Rounding: the same tensor, nearly, with smaller ranks, without ever forming it.

Networks without loops go by orthogonalisation and truncation of their tree; block TT and tubal SVDs by a batch of small
SVDs. What has loops (rings, sums of terms) is decomposed anew from its dense tensor by what `decompose` registers.
"""

from __future__ import annotations

from math import isfinite
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from tnkit.errors import OptionError
from tnkit.formats import operations
from tnkit.formats.base import Format
from tnkit.formats.layout import Layout, bond_caps
from tnkit.formats.matrices import BlockTT
from tnkit.formats.network import Tensorized
from tnkit.formats.rank_plan import Limits, truncate_within
from tnkit.formats.ranks import resolve_ranks
from tnkit.formats.trees import is_tree, tree_of
from tnkit.formats.tubal import TubalSVD
from tnkit.formats.tubes import Slices, truncated_products
from tnkit.linalg import reduced_qr
from tnkit.registry import PROVIDERS

__all__ = ["allowed_error2", "requested_ranks", "round_format"]


@operations.round.generic
def round_format(value: Format, rank: Any = None, *, eps: float | None = None) -> Format:
    """The same tensor, nearly, with smaller ranks.

    Args:
        value: any format.
        rank: as for `decompose`; an upper limit where eps is given too.
        eps: relative Frobenius error, one budget for all bonds together.

    Returns:
        The same format. Without loops the ranks are chosen together from the exact spectra of all cuts, the error never
        exceeds eps, and the nodes are orthogonalised to the first. A format with loops is fitted anew.

    Raises:
        OptionError: neither rank nor eps, or an eps that is none.
        MemoryLimitError: a format with loops whose dense tensor would not fit.

    Example:
        >>> from tnkit.formats import random_format
        >>> tt = random_format("tt", (4, 5, 6), 2, rng=0)
        >>> (tt + tt).round(eps=1e-10).ranks
        (2, 2)
    """
    check_request(rank, eps)
    if is_tree(value.topology()):
        limits = Limits(requested_ranks(value, rank), allowed_error2(value, eps))
        done = truncate_within(tree_of(value.topology()), _one_dtype(value), value.bonds(), limits)
        return value.with_tensors(done.tensors)
    if "round:dense" not in PROVIDERS:
        raise OptionError(f"round: a {value.name} has loops and is rounded by a decomposition. Import tnkit first.")
    rounded: Format = PROVIDERS.get("round:dense")(value, rank, eps)
    return rounded


@operations.round.register(Tensorized)
def round_tensorized(value: Tensorized, rank: Any = None, *, eps: float | None = None) -> Format:
    """The inner network; where zeros were padded, relative to the norm of the user's array."""
    check_request(rank, eps)
    if eps is not None and value.plan.pads:
        whole, inner = float(operations.norm(value)), float(operations.norm(value.format))
        eps = eps * whole / inner if inner > 0 else eps
    return operations.round(value.format, rank, eps=eps).tensorized(value.plan)


def check_request(rank: Any, eps: Any) -> None:
    """Refuse a rounding to nothing.

    Raises:
        OptionError: neither rank nor eps, or an eps that is no number of 0 or more.
    """
    if rank is None and eps is None:
        raise OptionError("round needs rank= or eps= (or both); neither was given. Example: eps=1e-6.")
    if eps is not None and (isinstance(eps, bool) or not isinstance(eps, Real) or not isfinite(eps) or eps < 0):
        raise OptionError(f"round: eps={eps!r} is not a relative error. Give a number of 0 or more, such as 1e-6.")


def requested_ranks(value: Format, rank: Any) -> tuple[int, ...] | None:
    """What the user wrote for `rank`, as one integer a bond, none above what there is."""
    if rank is None:
        return None
    bonds = value.bonds()
    sizes = value.topology().sizes([t.shape for t in value.tensors()])
    now = tuple(sizes[b] for b in bonds)
    caps = tuple(max(pair) for pair in zip(now, bond_caps(value.topology(), sizes, bonds), strict=True))
    fixed = {label: size for label, size in sizes.items() if label not in bonds}
    closing = {"tt": "ones", "ttm": "ones", "tr": "cyclic"}.get(value.name, "")
    layout = Layout(
        value.name, type(value), value.inner_shape, value.topology(), fixed, bonds, caps, None, closing=closing
    )
    return tuple(min(pair) for pair in zip(resolve_ranks(layout, rank), now, strict=True))


def allowed_error2(value: Format, eps: float | None) -> float | None:
    """The squared error to aim at, at least what rounding leaves."""
    if eps is None:
        return None
    norm2 = float(operations.norm(value.detach())) ** 2
    floor2 = (8.0 * torch.finfo(value.dtype).eps) ** 2 * norm2
    return max(eps**2 * norm2 * (1 - 1e-6) - floor2, floor2)


def _one_dtype(value: Format) -> list[Tensor]:
    dtype = value.dtype
    return [t.to(dtype) for t in value.tensors()]


def product_svd(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The SVDs of a batch of products (b, m, r) @ (b, r, n), at the cost of the factors."""
    q_left, r_left = reduced_qr(left)
    q_right, r_right = reduced_qr(right.mH)
    u, s, vh = torch.linalg.svd(r_left @ r_right.mH, full_matrices=False)
    return q_left @ u, s, vh @ q_right.mH


@operations.round.register(BlockTT)
def round_btt(value: BlockTT, rank: Any = None, *, eps: float | None = None) -> Format:
    """All blocks to one rank, each by its SVD: the best there is."""
    check_request(rank, eps)
    (j, el, k, r), i = value.left.shape, value.right.shape[3]
    caps = requested_ranks(value, rank)
    left = value.left.permute(0, 2, 1, 3).reshape(j * k, el, r)
    right = value.right.permute(1, 0, 2, 3).reshape(j * k, r, i)
    limit = None if caps is None else caps[0]
    ((a, b),), _ = truncated_products([product_svd(left, right)], [1], limit, allowed_error2(value, eps))
    return BlockTT(
        a.reshape(j, k, el, -1).permute(0, 2, 1, 3).contiguous(),
        b.reshape(j, k, -1, i).permute(1, 0, 2, 3).contiguous(),
    )


@operations.round.register(TubalSVD)
def round_tubal(value: TubalSVD, rank: Any = None, *, eps: float | None = None) -> Format:
    """All Fourier slices to one rank, each by its SVD: the best there is."""
    check_request(rank, eps)
    caps = requested_ranks(value, rank)
    error2 = allowed_error2(value, eps)
    left, right = _one_dtype(value)
    slices = Slices(left.shape[2:], real=not left.is_complex(), device=left.device)
    pairs = zip(slices.split(left), slices.split(right), strict=True)
    parts = [product_svd(a, b) for a, b in pairs]
    limit = None if caps is None else caps[0]
    (alone, first), _ = truncated_products(
        parts, [1, slices.weight], limit, None if error2 is None else error2 * slices.count
    )
    return TubalSVD(slices.join(alone[0], first[0]), slices.join(alone[1], first[1]))
