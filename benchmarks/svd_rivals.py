"""Linear layers made low rank as other papers do it, written by hand after their formulas: every layer at one share.

| name | what is truncated | source |
|---|---|---|
| SVD | W | |
| FWSVD | diag(√F) W, F_i = Σ_j E[(∂L/∂W_ij)²] | arXiv 2207.00112 |
| ASVD | W diag(s), s_j = (mean |x_j|)^½ | arXiv 2312.05821 |
| whitened | W S, S Sᵀ = XᵀX (Cholesky) | SVD-LLM, arXiv 2403.07378 |
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Added to the diagonal of XᵀX, as a share of its mean, so that Cholesky's factor exists.
RIDGE = 1e-6
NAMES = ("SVD", "FWSVD", "ASVD", "whitened")


@dataclass(slots=True)
class Moments:
    """Of one layer: XᵀX, Σ|x| and the number of rows; E[(∂L/∂W)²] by rows."""

    gram: Tensor
    absolute: Tensor
    rows: int
    fisher: Tensor


def moments(
    model: nn.Module, names: Iterable[str], batches: Iterable[Tensor], loss: Callable[[nn.Module, Tensor], Tensor]
) -> dict[str, Moments]:
    """What the four need, from a forward and a backward pass over each batch."""
    layers = {name: model.get_submodule(name) for name in names}
    found = {}
    for name, layer in layers.items():
        m, n = layer.weight.shape
        found[name] = Moments(torch.zeros(n, n).double(), torch.zeros(n).double(), 0, torch.zeros(m).double())

    def watch(of: Moments) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach().flatten(0, -2).double()
            of.gram += x.T @ x
            of.absolute += x.abs().sum(0)
            of.rows += len(x)

        return hook

    handles = [layers[name].register_forward_pre_hook(watch(of)) for name, of in found.items()]
    for batch in batches:
        model.zero_grad()
        loss(model, batch).backward()
        for name, of in found.items():
            of.fisher += layers[name].weight.grad.double().square().sum(1)
    model.zero_grad(set_to_none=True)
    for handle in handles:
        handle.remove()
    return found


def truncated(who: str, weight: Tensor, seen: Moments, rank: int) -> Tensor:
    """The rank-`rank` matrix, as its two factors would multiply out."""
    w = weight.detach().double()
    if who == "FWSVD":
        left = seen.fisher.clamp_min(1e-12 * float(seen.fisher.max())).sqrt()[:, None]
        return (cut(left * w, rank) / left).to(weight)
    if who == "ASVD":
        right = (seen.absolute / seen.rows).clamp_min(1e-12).sqrt()
        return (cut(w * right, rank) / right).to(weight)
    if who == "whitened":
        ridge = RIDGE * seen.gram.diagonal().mean() * torch.eye(len(seen.gram), dtype=w.dtype)
        root = torch.linalg.cholesky(seen.gram + ridge)
        return torch.linalg.solve_triangular(root, cut(w @ root, rank), upper=False, left=False).to(weight)
    return cut(w, rank).to(weight)


def cut(matrix: Tensor, rank: int) -> Tensor:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def low_rank(model: nn.Module, who: str, seen: dict[str, Moments], keep: float) -> tuple[nn.Module, float]:
    """A copy whose layers have the rank at which two factors hold `keep` of a layer's weights, and what it keeps."""
    made, whole, left = copy.deepcopy(model), 0, 0
    for name, of in seen.items():
        layer = made.get_submodule(name)
        m, n = layer.weight.shape
        rank = max(1, int(keep * m * n / (m + n)))
        layer.weight.data = truncated(who, layer.weight, of, rank)
        whole, left = whole + m * n, left + rank * (m + n)
    return made, left / whole
