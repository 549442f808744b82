"""Spectral starts from the unfoldings of a sparsely observed array, zeros where nothing is known.

Example:
    >>> import torch
    >>> from tnkit.completion import Observations
    >>> obs = Observations.from_dense(torch.ones(4, 3, 2))
    >>> [tuple(u.shape) for u in mode_spaces(obs, (1, 1, 1), torch.Generator().manual_seed(0))]
    [(4, 1), (3, 1), (2, 1)]
"""

from __future__ import annotations

from collections.abc import Sequence

import scipy
import torch
from torch import Tensor

from tnkit.completion.eigenvectors import leading_eigenvectors
from tnkit.completion.observations import Observations
from tnkit.rng import normal

__all__ = ["mode_spaces", "unfolding", "zero_filled_core"]


def unfolding(obs: Observations, mode: int) -> scipy.sparse.csr_array:
    """(n, columns) the unfolding along a mode, columns without entries left out."""
    others = [k for k in range(obs.ndim) if k != mode]
    key = obs.indices.new_zeros(obs.n)
    for k in others:
        key = torch.unique(key * obs.shape[k] + obs.indices[:, k], return_inverse=True)[1]
    values = obs.values if obs.weights is None else obs.values * obs.weights
    rows, columns = obs.indices[:, mode].cpu().numpy(), key.cpu().numpy()
    return scipy.sparse.csr_array(
        (values.double().cpu().numpy(), (rows, columns)), shape=(obs.shape[mode], int(columns.max()) + 1)
    )


def mode_spaces(obs: Observations, ranks: Sequence[int], rng: torch.Generator) -> list[Tensor]:
    """For each mode (n, r) orthonormal columns: leading eigenvectors of the unfolding's Gram matrix less its diagonal.

    The diagonal holds the squares of single entries, and so noise that does not average out where few are known. For a
    mode that is observed wholly it is kept.

    Args:
        obs: real.
        ranks: r for each mode.
        rng: fills up where there are fewer eigenvectors.
    """
    found = []
    for mode, r in enumerate(ranks):
        flat = unfolding(obs, mode)
        gram = (flat @ flat.T).tocsr()
        if not obs.complete:
            diagonal = gram.diagonal() * (1 - obs.fraction)
            gram = gram - scipy.sparse.diags_array(diagonal).tocsr()
        n = gram.shape[0]
        drawn = normal((n, r), obs.values.new_empty(0, dtype=torch.float64), rng).cpu()
        vectors = leading_eigenvectors(gram, r, normal((n,), drawn, rng).numpy())
        drawn[:, : vectors.shape[1]] = torch.from_numpy(vectors.copy())
        basis = torch.linalg.qr(drawn)[0] if r <= n else drawn
        found.append(basis.to(obs.values))
    return found


def zero_filled_core(obs: Observations, factors: Sequence[Tensor]) -> Tensor:
    """The zero-filled array over the share observed, in these bases.

    Args:
        obs: real.
        factors: one (n_k, r_k) a mode.
    """
    values = obs.values if obs.weights is None else obs.values * obs.weights
    total: Tensor | None = None
    for picks in torch.arange(obs.n, device=values.device).split(65536):
        rows = [f.index_select(0, obs.indices[picks, k]) for k, f in enumerate(factors)]
        left = values[picks][:, None]
        for row in rows[:-1]:
            left = (left[:, :, None] * row[:, None, :]).flatten(1)
        part = left.mT @ rows[-1]
        total = part if total is None else total + part
    assert total is not None
    return total.reshape([f.shape[1] for f in factors]) / obs.fraction
