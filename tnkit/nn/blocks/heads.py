"""The heads of a block with fewer dimensions: column selection for queries and keys, truncation for values and outputs.

Queries and keys: a dimension i of a head is kept by √E[q_i²] · √E[k_i²] (CR); with rotary positions, i and i + h/2 turn
together and are kept together; queries that share keys share the choice. Values and outputs: O v with v of a metric is
truncated to rank k, O ← U_k, V ← U_kᵀ O V, where U_k leads O in the metric of the attention's own outputs; nothing is
inverted. The output layer is then read off what is left, all heads together, by least squares.

References:
    Lin et al., MoDeGPT, arXiv 2408.09632, algorithms 2 and 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tnkit.nn.blocks.families import Heads
from tnkit.nn.stats import InputStats
from tnkit.nn.weighted import weighted_basis

__all__ = ["output_energy", "select_dimensions", "truncate_values"]


def output_energy(weight: Tensor, bias: Tensor | None, stats: InputStats) -> Tensor:
    """(m,) Σ y² of y = W x + b over the calibration data."""
    w = weight.detach().to(torch.float64)
    gram, total = stats.gram[0].to(w), stats.total[0].to(w)
    energy = (w @ gram * w).sum(dim=1)
    if bias is None:
        return energy
    b = bias.detach().to(w)
    return energy + 2 * b * (w @ total) + stats.count * b.square()


def select_dimensions(queries: Tensor, keys: Tensor, heads: Heads, count: int, *, rotary: bool) -> Tensor:
    """The dimensions of each head of keys that are kept.

    Args:
        queries: (heads.queries · h,) energy of each query dimension.
        keys: (heads.keys · h,) energy of each key dimension.
        heads: sizes.
        count: dimensions to keep in each head; even with `rotary`.
        rotary: whether pairs stay together.

    Returns:
        (heads.keys, count) sorted positions in a head.
    """
    size = heads.size
    q = queries.reshape(heads.keys, -1, size).sum(dim=1)  # heads of queries that share keys
    score = q.clamp_min(0).sqrt() * keys.reshape(heads.keys, size).clamp_min(0).sqrt()
    if not rotary:
        return score.topk(count, dim=1).indices.sort(dim=1)[0]
    half = size // 2
    pairs = (score[:, :half] + score[:, half:]).topk(count // 2, dim=1).indices.sort(dim=1)[0]
    return torch.cat([pairs, pairs + half], dim=1)


def truncate_values(
    values: Tensor, output: Tensor, stats: InputStats, heads: Heads, count: int
) -> tuple[Tensor, Tensor, float]:
    """Values and outputs through fewer dimensions of each head.

    Args:
        values: (heads.keys · h, n + 1) weight of the values with the bias as its last column (or without one).
        output: (m, heads.queries · h) weight of the output.
        stats: moments of the output layer's inputs.
        heads: sizes.
        count: dimensions to keep in each head.

    Returns:
        (values', output', error): (heads.keys · count, n + 1), (m, heads.queries · count), and the relative error of
        the output on the calibration data.
    """
    v, o = values.detach().to(torch.float64), output.detach().to(torch.float64)
    gram, size, shared = stats.gram[0].to(o), heads.size, heads.queries // heads.keys
    turns = []
    for k in range(heads.keys):
        mine = [slice((k * shared + j) * size, (k * shared + j + 1) * size) for j in range(shared)]
        stacked = torch.cat([o[:, s] for s in mine])
        metric = torch.stack([gram[s, s] for s in mine]).sum(dim=0)
        turns.append(weighted_basis(stacked, metric).factors(count)[1])  # (count, h)
    turn = torch.stack(turns)
    new_values = torch.einsum("kch,khn->kcn", turn, v.reshape(heads.keys, size, -1)).flatten(0, 1)
    whole = torch.block_diag(*(t for t in turns for _ in range(shared)))  # (queries · count, queries · h)
    seen = whole @ gram
    inner = seen @ whole.mT
    known, vectors = torch.linalg.eigh(inner)
    inverse = torch.where(known > 1e-12 * known[-1], 1.0 / known.clamp_min(1e-300), 0.0)
    inverses = [torch.linalg.pinv(t) for t in turns]
    parts = [o[:, k * size : (k + 1) * size] @ inverses[k // shared] for k in range(heads.queries)]
    start = torch.cat(parts, dim=1)
    new_output = start + (o @ seen.mT - start @ inner) @ (vectors * inverse) @ vectors.mT
    wrong = o - new_output @ whole
    lost2, energy = (float((x @ gram * x).sum()) for x in (wrong, o))
    return new_values, new_output, (max(lost2, 0.0) / energy) ** 0.5 if energy > 0 else 0.0
