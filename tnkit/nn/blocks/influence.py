"""Influence: blocks that hardly turn their input give more than blocks that do.

Reference: Lin et al., MoDeGPT, arXiv 2408.09632, section 3.3 (block influence: Men et al., arXiv 2403.03853).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tnkit.nn.batches import attention_mask, evaluating, output_tensors, run_batch
from tnkit.nn.blocks.families import Block
from tnkit.nn.hooks import hooked

__all__ = ["influences", "shares_of", "spread_out"]

#: No block loses more than this share.
MOST = 0.9


def shares_of(model: nn.Module, blocks: list[Block], batches: list[Any], keep: float, spread: float) -> list[float]:
    """What each block keeps; the mean is `keep`."""
    if spread == 0.0:
        return [keep] * len(blocks)
    return [1.0 - lost for lost in spread_out(influences(model, blocks, batches), 1.0 - keep, spread)]


def influences(model: nn.Module, blocks: list[Block], batches: list[Any]) -> list[float]:
    """Mean of 1 − cos(input, output) over the tokens, for each block."""
    sums = [torch.zeros(2, dtype=torch.float64) for _ in blocks]
    mask: Tensor | None = None

    def watch(k: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            x = next(t for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.is_floating_point())
            cosines = torch.cosine_similarity(x.double(), output_tensors(output)[0].double(), dim=-1)
            known = cosines[mask] if mask is not None and mask.shape == cosines.shape else cosines
            sums[k] += torch.tensor([float((1.0 - known).sum()), known.numel()], dtype=torch.float64)

        return hook

    layers = [model.get_submodule(block.name) for block in blocks]
    handles = [layer.register_forward_hook(watch(k), with_kwargs=True) for k, layer in enumerate(layers)]
    with hooked(handles), evaluating(model):
        for batch in batches:
            mask = attention_mask(batch)
            run_batch(model, batch, "compress_blocks")
    return [float(s[0] / s[1].clamp_min(1)) for s in sums]


def spread_out(scores: list[float], mean: float, temperature: float) -> list[float]:
    """L · mean · softmax(−scores / temperature), none above `MOST`; what is cut off goes to the others.

    Example:
        >>> [round(x, 3) for x in spread_out([0.1, 0.2, 0.3], 0.3, 0.1)]
        [0.599, 0.22, 0.081]
    """
    weights = torch.softmax(-torch.tensor(scores, dtype=torch.float64) / temperature, dim=0)
    lost, full = torch.zeros_like(weights), torch.zeros_like(weights, dtype=torch.bool)
    while True:
        left = len(scores) * mean - MOST * float(full.sum())
        lost = torch.where(full, MOST, left * weights / weights[~full].sum().clamp_min(1e-300))
        over = (lost > MOST) & ~full
        if not bool(over.any()):
            return [float(x) for x in lost]
        full |= over
