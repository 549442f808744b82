"""EVBMF: the rank at which a matrix stops being told from noise, by the analytic solution of variational Bayes.

The noise variance is what makes the free energy least; a singular value counts as signal if it exceeds
√(Mσ²(1 + τ)(1 + α/τ)), α = L/M, τ = 2.5129 √α. A matrix without signal gives rank 0.

Reference: Nakajima et al., Global analytic solution of fully-observed variational Bayesian matrix factorization,
JMLR 14 (2013), 1–37.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from tnkit.errors import ShapeError
from tnkit.nn.layers.recipe import find_recipe
from tnkit.nn.scope import Rules, find_scope
from tnkit.nn.specs import ChannelSVD, LayerSpec, LowRankLayer, Tucker2
from tnkit.nn.specs.base import Floats

__all__ = ["evbmf_rank", "evbmf_rules"]


def evbmf_rank(matrix: Tensor) -> int:
    """The number of singular values that stand above noise; 0 where none does.

    Args:
        matrix: (m, n) of any float dtype.

    Raises:
        ShapeError: no matrix, or an empty one.

    Cost:
        The singular values, and one search for the noise variance.

    Example:
        >>> import torch
        >>> from tnkit.nn.evbmf import evbmf_rank
        >>> _ = torch.manual_seed(0)
        >>> evbmf_rank(torch.randn(80, 5) @ torch.randn(5, 60) + 0.5 * torch.randn(80, 60))
        5
    """
    if matrix.ndim != 2 or matrix.numel() == 0:
        raise ShapeError(f"evbmf_rank takes a matrix (m, n); this one has shape {tuple(matrix.shape)}.")
    s = torch.linalg.svdvals(matrix.detach().to(torch.float64)).cpu().numpy()
    low, high = min(matrix.shape), max(matrix.shape)  # L <= M
    if float(s[0]) == 0.0 or low == 1:
        return int(float(s[0]) > 0.0)
    alpha = low / high
    tau = 2.5129 * alpha**0.5
    edge = (1 + tau) * (1 + alpha / tau)
    variance = _noise_variance(s, low, high, alpha, edge)
    return int((s > (high * variance * edge) ** 0.5).sum())


def _noise_variance(s: Floats, low: int, high: int, alpha: float, edge: float) -> float:
    """σ² of the least free energy, between what the small singular values allow and all of the energy."""
    first = min(int(np.ceil(low / (1 + alpha))) - 1, low - 1)
    energy = s**2
    most = float(energy.sum()) / (low * high)
    least = max(float(energy[first]) / (high * edge), float(energy[first:].mean()) / high)
    least = min(max(least, 1e-12 * most), most)

    def free_energy(log_variance: float) -> float:
        x = energy / (high * np.exp(log_variance))
        signal, noise = x[x > edge], x[x <= edge]
        root = (signal - (1 + alpha) + np.sqrt((signal - (1 + alpha)) ** 2 - 4 * alpha)) / 2  # τ(x), eq. 13
        kept = np.sum(signal - root) + np.sum(np.log((root + 1) / signal)) + alpha * np.sum(np.log(root / alpha + 1))
        return float(kept + np.sum(noise - np.log(np.maximum(noise, 1e-300))))

    grid = np.linspace(np.log(least), np.log(most), 64)
    values = [free_energy(x) for x in grid]
    best = int(np.argmin(values))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    if around[0] == around[1]:
        return float(np.exp(grid[best]))
    found = minimize_scalar(free_energy, bounds=around, method="bounded")
    return float(np.exp(found.x if found.fun <= values[best] else grid[best]))


def evbmf_rules(model: nn.Module, rules: Rules | None = None) -> dict[str, LayerSpec | None]:
    """Rules for `compress` in which each layer has the rank that EVBMF gives it, without a budget.

    Args:
        model: whose layers are looked at.
        rules: as in `compress`; what they exclude stays excluded, and layers for which they give a specification keep
            it.

    Returns:
        Name to `LowRankLayer(rank=…)`, or `Tucker2(rank=(…, …))` for convolutions, `ChannelSVD` for those of which
        Tucker-2 cannot have the two ranks. Where EVBMF finds no signal, the stable rank Σσ²/σ_1² stands in.

    Example:
        >>> import torch
        >>> from tnkit import nn as tnn
        >>> _ = torch.manual_seed(0)
        >>> layer = torch.nn.Linear(60, 80)
        >>> _ = layer.weight.data.copy_(torch.randn(80, 5) @ torch.randn(5, 60) + 0.5 * torch.randn(80, 60))
        >>> tnn.evbmf_rules(torch.nn.Sequential(layer))
        {'0': LowRankLayer(rank=5)}
    """
    found: dict[str, LayerSpec | None] = {}
    scope = find_scope(model, rules, "evbmf_rules")
    for item in scope.items:
        spec = item.spec
        chosen = spec.asked_rank is None and spec.keep is None and spec.max_error is None
        made = _spec_for(item.layer, item.name, spec) if chosen else spec
        found |= dict.fromkeys((item.name, *item.tied), made)
    return {**(rules or {}), **found}


def _spec_for(layer: nn.Module, name: str, spec: LayerSpec) -> LayerSpec:
    recipe = find_recipe(layer, spec, name)
    view = recipe.view(layer)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    blocks = view.blocks(weight.detach().to(torch.float64))
    if not isinstance(spec, Tucker2):
        return LowRankLayer(rank=max(_rank(block.flatten(1)) for block in blocks)) if blocks.ndim == 3 else spec
    rows = max(_rank(block.flatten(1)) for block in blocks)
    columns = max(_rank(block.transpose(0, 1).flatten(1)) for block in blocks)
    asked = Tucker2(rank=(rows, columns))
    fits = (asked.grid(view).ranks == np.array([rows, columns])).all(axis=1).any()
    return asked if fits else ChannelSVD(rank=rows)


def _rank(matrix: Tensor) -> int:
    rank = evbmf_rank(matrix)
    if rank:
        return rank
    s = torch.linalg.svdvals(matrix)
    stable = round(float(s.square().sum() / s[0].square().clamp_min(1e-300)))
    return max(1, min(stable, matrix.shape[0], matrix.shape[1]))
