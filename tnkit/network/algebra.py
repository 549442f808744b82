"""Sums and products of networks, written once on the graph.

The sum of two networks of equal topology is a network of the same topology whose nodes are block-diagonal in the
internal labels; the elementwise product has nodes that are Kronecker products in them.

Example:
    >>> import torch
    >>> from tnkit.network import Topology, block_sum, contract
    >>> t = Topology.parse("ia,aj->ij")
    >>> a, b = (torch.ones(2, 1), torch.ones(1, 2)), (torch.eye(2), torch.eye(2))
    >>> contract(*block_sum(t, a, b))
    tensor([[2., 1.],
            [1., 2.]])
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tnkit.errors import ShapeError
from tnkit.network.topology import Topology

__all__ = ["block_labels", "block_sum", "block_topology", "hadamard", "kron_nodes"]

#: The label that links parts of a network that hang together by nothing, so that their sum is a sum of products.
LINK = "+"


def block_labels(topology: Topology) -> tuple[str, ...]:
    """The internal labels that a sum makes longer; the others only need to be long enough for both.

    One label that touches every parameter node is enough (the hyperedge of CP, block terms, BLAST …); otherwise all
    that touch two parameter nodes are taken. Labels of constant nodes cannot grow.
    """
    fixed = {label for k, c in enumerate(topology.constants) if c is not None for label in topology.inputs[k]}
    joints = [
        label
        for label in topology.internal
        if label not in fixed and len(set(topology.nodes_of(label)) & set(topology.parameters)) > 1
    ]
    for label in joints:
        if set(topology.nodes_of(label)) >= set(topology.parameters):
            return (label,)
    return tuple(joints)


def block_topology(topology: Topology) -> Topology:
    """The topology of a sum: the same, or with a link where nodes do not hang together by labels that can grow."""
    if len(topology.parameters) == 1:
        return topology
    grown = block_labels(topology)
    parts = [part for part in topology.components(through=grown) if part & set(topology.parameters)]
    if len(parts) == 1:
        return topology
    first = {min(part & set(topology.parameters)) for part in parts}
    inputs = tuple((*labels, LINK) if k in first else labels for k, labels in enumerate(topology.inputs))
    return Topology(inputs, topology.output, topology.constants)


def block_sum(topology: Topology, a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Topology, tuple[Tensor, ...]]:
    """The network of the sum.

    Args:
        topology: of both.
        a: parameter nodes of the one.
        b: parameter nodes of the other; open labels have equal sizes.

    Returns:
        Topology (`block_topology`) and nodes; ranks of the grown labels add, the others take the larger.
    """
    if len(a) == 1:
        return topology, (_padded_sum(a[0], b[0]),)
    linked = block_topology(topology)
    grown = {*block_labels(topology), LINK}
    sizes_a, sizes_b = topology.sizes([t.shape for t in a]), topology.sizes([t.shape for t in b])
    for label in topology.output:
        if sizes_a[label] != sizes_b[label]:
            raise ShapeError(
                f"Cannot add: mode {label!r} has size {sizes_a[label]} in one and {sizes_b[label]} in the other."
            )
    nodes = []
    for x, y, k in zip(a, b, topology.parameters, strict=True):
        labels = linked.inputs[k]
        if labels[-1:] == (LINK,):
            x, y = x.unsqueeze(-1), y.unsqueeze(-1)
        nodes.append(_block(x, y, [label in grown for label in labels]))
    return linked, tuple(nodes)


def _block(x: Tensor, y: Tensor, grows: Sequence[bool]) -> Tensor:
    pairs = list(zip(x.shape, y.shape, grows, strict=True))
    shape = [m + n if grow else max(m, n) for m, n, grow in pairs]
    out = x.new_zeros(shape, dtype=torch.promote_types(x.dtype, y.dtype))
    out[tuple(slice(0, m) for m, _, _ in pairs)] += x
    out[tuple(slice(m, m + n) if grow else slice(0, n) for m, n, grow in pairs)] += y
    return out


def _padded_sum(x: Tensor, y: Tensor) -> Tensor:
    return _block(x, y, [False] * x.ndim)


def kron_nodes(x: Tensor, y: Tensor, merged: Sequence[bool]) -> Tensor:
    """Kronecker product in the axes that are `merged`, elementwise product in the others."""
    x_shape = [n for m, flag in zip(x.shape, merged, strict=True) for n in ((m, 1) if flag else (m,))]
    y_shape = [n for m, flag in zip(y.shape, merged, strict=True) for n in ((1, m) if flag else (m,))]
    product = x.reshape(x_shape) * y.reshape(y_shape)
    return product.reshape([m * n if flag else m for m, n, flag in zip(x.shape, y.shape, merged, strict=True)])


def hadamard(topology: Topology, a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The nodes of the elementwise product of two networks of equal topology without constants; ranks multiply.

    An open label may stand on several nodes; every node is then a function of it, so their product is right as well.
    """
    return tuple(
        kron_nodes(x, y, [label not in topology.output for label in topology.inputs[k]])
        for x, y, k in zip(a, b, topology.parameters, strict=True)
    )
