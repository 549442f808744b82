"""CP factors from subspaces of the modes: a small core fitted to some of the entries, decomposed, and carried back.

In the bases U_k of the modes the array is a core G of q^d numbers, which a sample of the entries determines. A CP
decomposition of G, which is dense and small, gives that of the array: a_k = U_k c_k.

Example:
    >>> import torch
    >>> from tnkit.completion.cp_entries import CPEntries
    >>> indices = torch.cartesian_prod(torch.arange(6), torch.arange(5))
    >>> entries = CPEntries.of(indices, torch.ones(30), (6, 5), sort=False)
    >>> bases = [torch.ones(6, 1) / 6**0.5, torch.ones(5, 1) / 5**0.5]
    >>> abs(float(fit_core(entries, bases, torch.Generator().manual_seed(0))) - 30**0.5) < 0.1
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from tnkit.completion.cp_entries import CPEntries
from tnkit.decompose.base import Target
from tnkit.decompose.cp_als import CPALS
from tnkit.decompose.run import run
from tnkit.formats import CPSpec
from tnkit.solvers import Control

__all__ = ["cp_of_core", "fit_core"]

#: Entries that the core is fitted to: so many for each of its numbers, between these limits.
EACH, LEAST, MOST = 10, 20_000, 60_000
STEPS = 12
#: The core is noisy: a few good starts, not the last digits.
QUICK = CPALS(starts=2, max_steps=60, tol=3e-3, compress=False)


def fit_core(entries: CPEntries, bases: Sequence[Tensor], rng: torch.Generator) -> Tensor:
    """(q_1, …, q_d) the core in these bases, by least squares on a sample of the entries, in float64.

    Args:
        entries: real.
        bases: one (n_k, q_k) a mode.
        rng: draws the sample.

    Cost:
        12 steps of conjugate gradients on at most 60 000 entries, in float32.
    """
    sizes = [b.shape[1] for b in bases]
    count = min(entries.n, max(LEAST, min(MOST, EACH * prod(sizes))))
    picks = torch.randperm(entries.n, generator=rng, device=rng.device)[:count].to(entries.values.device)
    y = entries.values[picks].to(torch.float32)
    rows = [b.index_select(0, c[picks]).to(y) * b.shape[0] ** 0.5 for b, c in zip(bases, entries.columns, strict=True)]
    half = len(rows) // 2
    root = torch.ones_like(y) if entries.root_weight is None else entries.root_weight[picks].to(y)
    y = y * root
    left, right = _products(rows[:half], count, y), _products(rows[half:], count, y) * root[:, None]

    def there(core: Tensor) -> Tensor:
        return ((left @ core) * right).sum(1)

    def back(r: Tensor) -> Tensor:
        return left.mT @ (right * r[:, None])

    core = y.new_zeros(left.shape[1], right.shape[1])
    residual = back(y)
    direction, size = residual, float(residual.square().sum())
    ridge = 0.01 * count  # the bases are of unit mean squares: 1 % against what they miss
    for _ in range(STEPS):
        if size <= 0:
            break
        image = back(there(direction)) + ridge * direction
        step = size / float((direction * image).sum())
        core, residual = core + step * direction, residual - step * image
        after = float(residual.square().sum())
        if after <= 1e-12 * size:
            break
        direction, size = residual + (after / size) * direction, after
    return torch.mul(core.double().reshape(sizes), float(prod(b.shape[0] for b in bases)) ** 0.5)


def cp_of_core(core: Tensor, bases: Sequence[Tensor], rank: int, rng: torch.Generator) -> tuple[Tensor, ...]:
    """One (n_k, rank) a mode: factors of the array whose core in these bases this is.

    Args:
        core: (q_1, …, q_d).
        bases: one (n_k, q_k) a mode.
        rank: terms.
        rng: for the starts of the decomposition.
    """
    norm = float(core.norm())
    if norm == 0:
        return tuple(b.new_zeros(b.shape[0], rank) for b in bases)
    spec = CPSpec()
    layout = spec.layout(tuple(core.shape))
    most = min(rank, layout.caps[0])
    fit = run(core, norm, spec, layout, Target(ranks=(most,)), method=QUICK, rng=rng, control=Control())
    weights, *small = fit.tensor.tensors()
    share = weights.abs() ** (1 / len(small))
    small = [f * share for f in small]
    small[0] = small[0] * weights.sign()
    factors = [b @ f.to(b.dtype) for b, f in zip(bases, small, strict=True)]
    if most < rank:
        factors = [torch.nn.functional.pad(f, (0, rank - most)) for f in factors]
    return tuple(factors)


def _products(rows: Sequence[Tensor], count: int, like: Tensor) -> Tensor:
    product = like.new_ones(count, 1)
    for row in rows:
        product = (product[:, :, None] * row[:, None, :]).flatten(1)
    return product
