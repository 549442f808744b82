"""Environments: the rest of a network around one node, which is what least squares and gradients need.

Example:
    >>> import torch
    >>> from tnkit.network import Topology, environment
    >>> t = Topology.parse("ia,aj->ij")
    >>> env, labels = environment(t, (torch.ones(2, 3), torch.ones(3, 4)), 0)
    >>> labels, tuple(env.shape)
    (('a', 'j'), (3, 4))
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tnkit.network.plan import contract
from tnkit.network.topology import Topology

__all__ = ["environment", "environment_topology", "gram_topology"]


def environment_topology(topology: Topology, node: int) -> Topology:
    """The network without `node`: its open labels are those it shares with the rest, then the outputs of the rest.

    Args:
        topology: of at least two nodes.
        node: position among all nodes.
    """
    rest = tuple(labels for k, labels in enumerate(topology.inputs) if k != node)
    known = {label for labels in rest for label in labels}
    shared = tuple(label for label in topology.inputs[node] if label in known)
    others = tuple(label for label in topology.output if label in known and label not in shared)
    constants = tuple(c for k, c in enumerate(topology.constants) if k != node)
    return Topology(rest, shared + others, constants)


def environment(topology: Topology, tensors: Sequence[Tensor], node: int) -> tuple[Tensor, tuple[str, ...]]:
    """Contract everything but one node.

    Args:
        topology: of at least two nodes.
        tensors: the parameter nodes.
        node: position among all nodes; a parameter.

    Returns:
        The environment E and its labels; the dense tensor is the contraction of E with the node.
    """
    rest = environment_topology(topology, node)
    position = topology.parameters.index(node)
    others = [t for k, t in enumerate(tensors) if k != position]
    return contract(rest, others), rest.output


def gram_topology(topology: Topology, node: int) -> tuple[Topology, tuple[str, ...]]:
    """The network of EᴴE for the environment E of `node`, without ever forming E.

    The labels that the node shares with the rest appear twice in the result, plain (of E) and primed (of conj E);
    those of them that are also open in the dense tensor are not summed and stay single, as a batch.

    Returns:
        The topology over conj(rest) then rest, and the node's batch labels (open and shared by the rest).
    """
    rest = environment_topology(topology, node)
    shared = [label for label in topology.inputs[node] if label in rest.output]
    batch = tuple(label for label in shared if label in topology.output)
    doubled = [label for label in rest.labels if label not in topology.output]
    primed = {label: label + "'" for label in doubled}
    conj = rest.relabel(primed)
    free = tuple(label for label in shared if label not in batch)
    output = batch + tuple(primed[label] for label in free) + free
    return Topology(conj.inputs + rest.inputs, output, conj.constants + rest.constants), batch
