"""Ranks of layers by EVBMF: see `tnkit.linalg.evbmf`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tnkit.errors import ShapeError
from tnkit.linalg.evbmf import evbmf_rank as spectral_rank
from tnkit.nn.layers.recipe import find_recipe
from tnkit.nn.scope import Rules, find_scope
from tnkit.nn.specs import ChannelSVD, LayerSpec, LowRankLayer, Tucker2

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
    return spectral_rank(s, *matrix.shape)


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
