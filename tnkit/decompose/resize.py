"""Other ranks for the same tensors: larger ones without a change of the tensor, smaller ones with a small change.

Example:
    >>> import torch
    >>> from tnkit.network import Topology, contract
    >>> t = Topology.parse("ia,aj->ij")
    >>> a = (torch.eye(3), torch.diag(torch.tensor([3.0, 2.0, 0.0])))
    >>> [round(entry, 4) for entry in contract(t, shrunk(t, a, {"a": 2})).diagonal().tolist()]
    [3.0, 2.0, 0.0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tnkit.linalg.split_svd import safe_svd
from tnkit.network import Topology
from tnkit.rng import normal

__all__ = ["grown", "resized", "shorter_bond", "shrunk"]


def resized(
    topology: Topology, tensors: Sequence[Tensor], ranks: Mapping[str, int], rng: torch.Generator
) -> tuple[Tensor, ...]:
    """First `shrunk`, then `grown`, to these ranks."""
    return grown(topology, shrunk(topology, tensors, ranks), ranks, rng)


def grown(
    topology: Topology, tensors: Sequence[Tensor], ranks: Mapping[str, int], rng: torch.Generator
) -> tuple[Tensor, ...]:
    """Longer bonds: zeros on the first node of a bond and random numbers on its others, so that the tensor stays."""
    nodes = dict(zip(topology.parameters, tensors, strict=True))
    for label, rank in ranks.items():
        for position, k in enumerate(topology.nodes_of(label)):
            if k not in nodes:
                continue
            axis, node = topology.inputs[k].index(label), nodes[k]
            shape = list(node.shape)
            shape[axis] = rank - shape[axis]
            if shape[axis] <= 0:
                continue
            more = node.new_zeros(shape)
            if position > 0:
                more = normal(shape, node, rng) * (torch.linalg.vector_norm(node) / max(1, node.numel()) ** 0.5)
            nodes[k] = torch.cat([node, more], dim=axis)
    return tuple(nodes[k] for k in topology.parameters)


def shrunk(topology: Topology, tensors: Sequence[Tensor], ranks: Mapping[str, int]) -> tuple[Tensor, ...]:
    """Shorter bonds: between two nodes by their common SVD, else the largest terms are kept."""
    nodes = dict(zip(topology.parameters, tensors, strict=True))
    for label, rank in ranks.items():
        holders = topology.nodes_of(label)
        axes = [topology.inputs[k].index(label) for k in holders]
        known = [k for k in holders if k in nodes]
        if not known or nodes[known[0]].shape[topology.inputs[known[0]].index(label)] <= rank:
            continue
        if len(holders) == 2 and len(known) == 2:
            a, b = holders
            nodes[a], nodes[b] = shorter_bond(nodes[a], axes[0], nodes[b], axes[1], rank)
            continue
        weight: Tensor | None = None
        for k, axis in zip(holders, axes, strict=True):
            if k in nodes:
                slices = nodes[k].movedim(axis, 0).reshape(nodes[k].shape[axis], -1)
                norms = torch.linalg.vector_norm(slices, dim=1)
                weight = norms if weight is None else weight * norms
        assert weight is not None
        keep = torch.sort(torch.sort(weight, descending=True, stable=True).indices[:rank]).values
        for k, axis in zip(holders, axes, strict=True):
            if k in nodes:
                nodes[k] = nodes[k].index_select(axis, keep)
    return tuple(nodes[k] for k in topology.parameters)


def shorter_bond(a: Tensor, axis_a: int, b: Tensor, axis_b: int, rank: int) -> tuple[Tensor, Tensor]:
    """Two nodes with their bond in its singular basis, at most `rank` of it, shared evenly."""
    left, right = a.movedim(axis_a, -1), b.movedim(axis_b, 0)
    q, r = torch.linalg.qr(left.reshape(-1, left.shape[-1]))
    p, s = torch.linalg.qr(right.reshape(right.shape[0], -1).mH)
    u, values, vh = safe_svd(r @ s.mH)
    root = values[:rank].sqrt().to(u.dtype)
    new_a, new_b = (q @ u[:, :rank]) * root, root[:, None] * (vh[:rank] @ p.mH)
    short = rank - new_a.shape[1]
    if short > 0:  # the nodes hold less than the rank
        new_a = torch.cat([new_a, new_a.new_zeros((new_a.shape[0], short))], dim=1)
        new_b = torch.cat([new_b, new_b.new_zeros((short, new_b.shape[1]))], dim=0)
    a_shape, b_shape = (*left.shape[:-1], rank), (rank, *right.shape[1:])
    return new_a.reshape(a_shape).movedim(-1, axis_a).contiguous(), new_b.reshape(b_shape).movedim(
        0, axis_b
    ).contiguous()
