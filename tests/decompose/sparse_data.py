"""Sparse arrays for the tests: mostly zero ones, planted ones, and what two fits of them have in common."""

import torch

from tnkit.rng import generator, normal
from tnkit.sources import SparseTensor

FORMATS = ("cp", "tucker", "tt")
DIRECT = ("tucker", "tt")
METHODS = {"cp": "sparse_cp_als", "tucker": "sparse_tucker", "tt": "sparse_tt"}


def sparse_array(shape, seed, density=0.3, dtype=torch.float64):
    """A dense tensor, mostly zero, with at least one entry."""
    gen = generator(seed)
    x = normal(shape, torch.empty(0, dtype=dtype), gen)
    x = x * (torch.rand(shape, generator=gen) < density)
    x.view(-1)[seed % x.numel()] = 1.5
    return x


def planted(shape, rank, rows, seed=0, noise=0.0):
    """A sum of rank-one terms, each on a few rows of every mode, and the terms' factors."""
    gen = generator(seed)
    factors = []
    for n, m in zip(shape, rows, strict=True):
        f = torch.zeros(n, rank, dtype=torch.float64)
        for t in range(rank):
            f[torch.randperm(n, generator=gen)[:m], t] = torch.rand(m, generator=gen, dtype=torch.float64) + 0.5
        factors.append(f)
    indices, values = [], []
    for t in range(rank):
        there = [f[:, t].nonzero()[:, 0] for f in factors]
        indices.append(torch.cartesian_prod(*there))
        values.append(torch.cartesian_prod(*[f[i, t] for f, i in zip(factors, there, strict=True)]).prod(1))
    found = torch.cat(values)
    found = found + noise * torch.randn(found.shape, generator=gen, dtype=torch.float64)
    return SparseTensor(torch.cat(indices), found, shape), factors


def require_repeated(a, b):
    """The same result but for rounding, which depends on where the allocator puts arrays, and what a fit makes of it.

    The last bits of products and factorisations differ with the alignment of their operands.
    """
    slack = 1e-3 if a.dtype.itemsize < 8 or a.dtype == torch.complex64 else 1e-5
    torch.testing.assert_close(a, b, rtol=0.0, atol=slack * float(a.abs().max()))


# --- what comes in --------------------------------------------------------------------------------------------------
