"""Subspaces of the modes of a sparsely observed array from pairs of entries, and their refinement by projections.

Two entries that differ in mode k alone say y y' ≈ Σ_r (a_r a'_r) h_r², so that the symmetric matrix of these products
over all such pairs, which has no diagonal, has the space of the mode's factor among its leading eigenvectors. (The
diagonal, on which noise would gather, is what the plain Gram matrix of an unfolding adds.) Few large values would
dominate the products; they are clipped at the root mean square, which near the threshold of recovery decides. All modes
but the longest are estimated so; then all in turn follow by higher-order orthogonal iteration on the observed entries.

References: Xia, Yuan 2019, doi:10.1007/s10208-018-09408-6 and Cai, Li, Poor, Chen 2022, doi:10.1287/opre.2021.2106
(spectral starts without the diagonal); Montanari, Sun 2018, doi:10.1002/cpa.21748 (by unfoldings).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy
import torch
from torch import Tensor

from tnkit.completion.cp_entries import CPEntries
from tnkit.completion.eigenvectors import leading_eigenvectors
from tnkit.rng import normal

__all__ = ["clipped", "leading", "pair_subspace", "subspaces"]

#: Products of pairs that are made at the most; where there are more, these tell enough.
PAIRS = 20_000_000


def pair_subspace(entries: CPEntries, mode: int, q: int, values: Tensor, rng: torch.Generator) -> Tensor:
    """(n, q) orthonormal columns: leading eigenvectors of the matrix of products of pairs that differ in one mode.

    Args:
        entries: real; sorted or not.
        mode: the mode of the subspace.
        q: its dimension; columns beyond what pairs tell are random.
        values: (N,) that are multiplied.
        rng: for the start of the iteration.

    Cost:
        one sort of the entries, and a few dozen products with a sparse matrix of the pairs.
    """
    n = entries.shape[mode]
    key = entries.columns[0].new_zeros(entries.n, dtype=torch.int64)
    for k, size in enumerate(entries.shape):
        if k != mode:
            key = key * size + entries.columns[k]
    sorted_key, order = key.sort(stable=True)
    del key
    row, y = entries.columns[mode][order].cpu().numpy(), values[order].double().cpu().numpy()
    same_key = sorted_key.cpu().numpy()
    matrix, pairs, lag = scipy.sparse.csr_array((n, n), dtype=np.float64), 0, 1
    while pairs < PAIRS and lag < len(row):
        at = np.flatnonzero(same_key[lag:] == same_key[:-lag])[: PAIRS - pairs]
        if not at.size:
            break
        matrix = matrix + scipy.sparse.coo_array((y[at] * y[at + lag], (row[at], row[at + lag])), shape=(n, n)).tocsr()
        pairs, lag = pairs + at.size, lag + 1
    matrix = matrix + matrix.T
    drawn = normal((n, q), torch.empty(0, dtype=torch.float64), rng)
    known = min(q, n)
    if pairs:
        vectors = leading_eigenvectors(matrix, known, normal((n,), drawn, rng).numpy())
        drawn[:, : vectors.shape[1]] = torch.from_numpy(vectors.copy())
    found: Tensor = torch.linalg.qr(drawn)[0] if q <= n else drawn / drawn.norm(dim=0)
    return found.to(device=values.device, dtype=values.dtype)


def subspaces(
    entries: CPEntries, q: int, rounds: int, rng: torch.Generator, out_of_time: Callable[[], bool]
) -> list[Tensor]:
    """For each mode (n, q') orthonormal columns, q' = min(q, n), in float32.

    Args:
        entries: real and sorted.
        q: dimension of the subspaces.
        rounds: of the iteration.
        rng: random numbers.
        out_of_time: whether to stop early.
    """
    values = clipped(entries)
    by_size = sorted(range(len(entries.shape)), key=lambda k: entries.shape[k])
    bases = [normal((n, q), values, rng) for n in entries.shape]
    for mode in by_size[:-1]:
        if not out_of_time():
            bases[mode] = pair_subspace(entries, mode, q, values, rng)
    for _ in range(rounds):
        for mode in reversed(by_size):
            if not out_of_time():
                bases[mode] = leading(entries.project(bases, mode, values), q)
    return bases


def clipped(entries: CPEntries) -> Tensor:
    """(N,) the values by their root weights in float32, in units of their root mean square, clipped at 1."""
    plain = entries.values.to(torch.float32)
    if entries.root_weight is not None:
        plain = plain * entries.root_weight.to(torch.float32)
    size = float(plain.square().mean().sqrt()) or 1.0
    found: Tensor = (plain / size).clamp(-1.0, 1.0)
    return found


def leading(matrix: Tensor, q: int) -> Tensor:
    """(n, q) the leading left singular vectors of a tall or wide matrix by its smaller Gram matrix.

    Columns beyond the rank are zero.
    """
    if matrix.shape[0] < matrix.shape[1]:
        values, vectors = torch.linalg.eigh(matrix.double() @ matrix.double().mT)
        basis = vectors.flip(-1)[:, :q]
    else:
        double = [part.double() for part in matrix.split(65536)]
        gram = double[0].mT @ double[0]
        for part in double[1:]:
            gram += part.mT @ part
        values, vectors = torch.linalg.eigh(gram)
        right = vectors.flip(-1)[:, :q]
        lengths = values.flip(-1)[:q].clamp_min(float(values[-1]) * 1e-10 + 1e-300).sqrt()
        basis = torch.cat([part @ right for part in double]) / lengths
    if basis.shape[1] < q:
        basis = torch.nn.functional.pad(basis, (0, q - basis.shape[1]))
    found: Tensor = basis.to(matrix.dtype)
    return found
