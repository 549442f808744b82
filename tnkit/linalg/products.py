"""Products with a big matrix view: one pass over the data each, no copy of it, float64 sums where float32 would lose.

`a` is a 2-D view (m, n) of any strides. Where neither stride is 1, a product would copy the whole of it; here blocks
of columns are copied one at a time. All numbers returned are float64 or stay on the device.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = [
    "apply_rows",
    "cross",
    "energy",
    "gram",
    "padded_rows",
    "project",
    "project_with_gram",
    "residual_energy",
    "row_energies",
    "wide_dtype",
]

_CHUNK = 64  # entries that one float32 sum runs over
_SMALL = 1 << 16  # entries that are simply converted
_BLOCK = 4096  # columns of a float32 Gram block
_COPY = 1 << 19  # entries of a block that is copied
_SLIM = 96  # columns up to which the Gram matrix of a tall float64 matrix is faster in batches that stay in cache
_ROWS = 4  # numbers of rows that multiply fastest
_TURNED = 8192  # columns of a projection that are written in the order of the data while they are in cache
_MANY = 1 << 20  # numbers of a projection from which that pays


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 or complex128: the type in which sums over much data of `dtype` are kept."""
    return torch.complex128 if dtype.is_complex else torch.float64


def _multiplies(a: Tensor) -> bool:
    """Whether a matrix product takes this view as it lies."""
    (m, n), (s, t) = a.shape, a.stride()
    return (t == 1 and (s >= n or m == 1)) or (s == 1 and (t >= m or n == 1))


def _columns(a: Tensor, width: int) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of columns, each in a layout that multiplies without a copy."""
    copies = not _multiplies(a)
    if copies:
        width = min(width, max(1, _COPY // max(a.shape[0], 1)))
    for j in range(0, a.shape[1], width):
        block = a[:, j : j + width]
        yield slice(j, j + block.shape[1]), block.contiguous() if copies else block


def energy(a: Tensor) -> float:
    """The squared Frobenius norm of a tensor.

    float32 sums run over 64 entries each and are then added in float64, so the relative error is about 1e-9 in float32
    (6e-8 where all entries are equal) and 1e-16 in float64, whatever the size. Cost: one read.

    Example:
        >>> import torch
        >>> energy(torch.tensor([[3.0, 4.0]]))
        25.0
    """
    if a.numel() == 0:
        return 0.0
    a = a.detach()
    if a.numel() <= _SMALL:
        return float(torch.linalg.vector_norm(a.to(wide_dtype(a.dtype))).square())
    if a.ndim == 2 and a.stride(0) < a.stride(1):
        a = a.mT
    if a.is_complex() and a.stride(-1) == 1:  # norms of pairs of real numbers are much faster
        a = torch.view_as_real((a.conj() if a.is_conj() else a).resolve_neg()).flatten(-2)
    if a.is_contiguous():
        a = a.reshape(1, -1)
    whole = a.shape[-1] // _CHUNK * _CHUNK
    total = a.new_zeros((), dtype=torch.float64)
    for part in (a[..., :whole].unflatten(-1, (-1, _CHUNK)) if whole else None, a[..., whole:]):
        if part is not None and part.numel():
            total = total + torch.linalg.vector_norm(part, dim=-1).to(torch.float64).square_().sum()
    return float(total)


def row_energies(a: Tensor) -> Tensor:
    """The squared norms of the rows of `a` (m, n), as exactly as `energy`: (m,) in float64. Cost: one read."""
    if a.stride(0) < a.stride(1):  # in memory the columns lie together: sums over them run fast only by blocks
        sums = torch.zeros(a.shape[0], dtype=torch.float64, device=a.device)
        for _, block in _columns(a, max(1, _COPY // a.shape[0])):
            sums += block.abs().to(torch.float64).square_().sum(1)
        return sums
    whole = a.shape[1] // _CHUNK * _CHUNK
    total: Tensor = torch.linalg.vector_norm(a[:, whole:], dim=1).to(torch.float64).square_()
    if whole:
        chunks = torch.linalg.vector_norm(a[:, :whole].unflatten(1, (-1, _CHUNK)), dim=2)
        total += chunks.to(torch.float64).square_().sum(1)
    return total


def gram(a: Tensor, *, precise: bool = False) -> Tensor:
    """The Gram matrix a aᴴ in float64 (complex128).

    Args:
        a: (m, n).
        precise: for float32, multiply in float64 too (twice the time; then only the data's own rounding is left).
            Without it float32 products are summed in blocks of columns and the blocks in float64: the error is about
            2e-8 of the largest entry instead of 5e-7; up to 3e-6 where all entries of a row are equal.

    Returns:
        (m, m), Hermitian.

    Cost:
        m² n to 2 m² n flops: for large m only panels of the upper triangle are multiplied.
    """
    m, n = a.shape
    wide = wide_dtype(a.dtype)
    g = torch.zeros((m, m), dtype=wide, device=a.device)
    if a.dtype == wide:
        for _, block in _columns(a, n if _multiplies(a) else _BLOCK):
            _add_gram(g, block)
    else:
        for _, block in _columns(a, _BLOCK):
            _add_gram(g, block.to(wide) if precise else block)
    upper = g.triu(1)
    return torch.diag_embed(g.diagonal()) + upper + upper.mH


def _add_gram(g: Tensor, block: Tensor) -> None:
    """Add block blockᴴ to the upper triangle of g, by panels where the product is large enough to gain from them."""
    m, n = block.shape
    if m <= _SLIM and block.stride(0) == 1 and n >= 4 * _BLOCK and block.dtype == torch.float64 == g.dtype:
        whole = n // _BLOCK * _BLOCK
        parts = block[:, :whole].mT.unflatten(0, (-1, _BLOCK))  # (batches, rows, m): contiguous
        g += torch.bmm(parts.mT, parts).sum(0)
        block = block[:, whole:]
    panel = m if m < 192 else max(64, -(-m // 8))
    for i in range(0, m, panel):
        rows, rest = block[i : i + panel], block[i:].mH
        if rows.is_complex() and rows.stride(0) == 1:  # the other conjugate of such a matrix would be a copy
            g[i : i + panel, i:].add_((rows.conj() @ block[i:].mT).conj())
        elif rows.dtype == g.dtype:
            g[i : i + panel, i:].addmm_(rows, rest)
        else:
            g[i : i + panel, i:].add_(rows @ rest)


def project(q: Tensor, a: Tensor, out: Tensor | None = None) -> Tensor:
    """qᴴ a, (k, n), for q (m, k) and a (m, n), in the memory order of `a` where that is large. Cost: 2 m n k."""
    if _turns(q, a):
        return _project_turned(q, a, out, None)
    if _multiplies(a):
        if out is None and a.dtype == torch.float32 and a.stride(0) == 1 and a.shape[1] > _BLOCK:
            return (a.mT @ q).mT
        return padded_rows(q.mH, a).matmul(a)[: q.shape[1]] if out is None else torch.matmul(q.mH, a, out=out)
    if out is None:
        out = torch.empty((q.shape[1], a.shape[1]), dtype=a.dtype, device=a.device)
    for where, block in _columns(a, _BLOCK):
        out[:, where] = q.mH @ block
    return out


def project_with_gram(q: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """B = qᴴ a as `project` gives it, and b bᴴ in float64. Cost: 2 m n k + 2 k² n, and for wide `a` no read of b."""
    if not _turns(q, a):
        b = project(q, a)
        return b, cross(b)
    inner = torch.zeros((q.shape[1], q.shape[1]), dtype=a.dtype, device=a.device)
    b = _project_turned(q, a, None, inner)
    return b, 0.5 * (inner + inner.mT)


def _turns(q: Tensor, a: Tensor) -> bool:
    """Whether a product by blocks is faster than one product, or than one and its transposition."""
    across = a.stride(0) == 1 and a.stride(1) == a.shape[0] > 1
    return across and a.dtype == torch.float64 and a.device.type == "cpu" and q.shape[1] * a.shape[1] >= _MANY


def _project_turned(q: Tensor, a: Tensor, out: Tensor | None, inner: Tensor | None) -> Tensor:
    """The projection, block by block, in the memory order of `a` unless `out` says otherwise; b bᴴ is added to inner.

    Rows times columns is the fast order of so slim a product; the other order is the one that what comes next reads.
    """
    k, n = q.shape[1], a.shape[1]
    rows = padded_rows(q.mT, a)
    out = a.new_empty((n, k)).mT if out is None else out
    for j in range(0, n, _TURNED):
        part = (rows @ a[:, j : j + _TURNED])[:k]
        out[:, j : j + _TURNED] = part
        if inner is not None:
            inner.addmm_(part, part.mT)
    return out


def apply_rows(a: Tensor, b: Tensor) -> Tensor:
    """A bᴴ, (m, k), for a (m, n) and rows b (k, n). Cost: 2 m n k.

    Which of a bᴴ and (b aᴴ)ᴴ is formed is a matter of speed: they differ by a factor of up to four.
    """
    if a.dtype == torch.float32 and a.stride(1) == 1 and _multiplies(a):
        return a @ b.mT
    if _multiplies(a):
        return _rows_times(b, a).mH
    total = torch.zeros((a.shape[0], b.shape[0]), dtype=a.dtype, device=a.device)
    for where, block in _columns(a, _BLOCK):
        total += _rows_times(b[:, where], block).mH
    return total


def _rows_times(b: Tensor, a: Tensor) -> Tensor:
    """B aᴴ; a conjugate without a transposition would be a copy, so then the small factor is conjugated."""
    if a.is_complex() and a.stride(0) == 1:
        return (b.conj() @ a.mT).conj()
    return (padded_rows(b, a) @ a.mH)[: b.shape[0]]


def padded_rows(rows: Tensor, a: Tensor) -> Tensor:
    """Rows (k, m) with rows of zeros below them, where that makes their product with a large array faster.

    A number of rows that is no multiple of four takes up to twice the time on some machines.
    """
    missing = -rows.shape[0] % _ROWS
    if missing == 0 or rows.shape[0] < _ROWS or a.numel() < _COPY:
        return rows
    return torch.cat([rows, rows.new_zeros((missing, rows.shape[1]))])


def cross(b: Tensor) -> Tensor:
    """B bᴴ in float64 for few rows: `gram` with products in float64. Cost: 2 k² n."""
    return gram(b, precise=True)


def residual_energy(a: Tensor, basis: Tensor, rest: Tensor) -> float:
    """‖a − basis rest‖², formed block by block: no cancellation, so it is true far below ‖a‖² times machine epsilon.

    In single precision the sum is good to about 1e-3.

    Cost: 2 m n k and one read; memory of one block.
    """
    width = max(64, _COPY // max(a.shape[0], 1))
    across = a.stride(0) == 1  # then the residual is formed in that order too
    room = a.new_empty(min(width, a.shape[1]) * a.shape[0])
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for where, block in _columns(a, width):
        m, n = block.shape
        flat = room[: m * n]
        if across:
            torch.addmm(block.mT, rest[:, where].mT, basis.mT, alpha=-1, out=flat.view(n, m))
        else:
            torch.addmm(block, basis, rest[:, where], alpha=-1, out=flat.view(m, n))
        total += torch.vdot(flat, flat).real
    return float(total)
