"""Orthogonal forms and exact norms of networks without loops."""

from __future__ import annotations

import torch
from torch import Tensor

from tnkit.errors import OptionError
from tnkit.formats import operations
from tnkit.formats.arithmetic import norm as norm_by_contraction
from tnkit.formats.base import Format
from tnkit.formats.chains import TT
from tnkit.formats.ht import HierarchicalTucker
from tnkit.formats.matrices import KroneckerSum, LowRank, TTMatrix
from tnkit.formats.network import Network, Tensorized
from tnkit.formats.trees import is_tree, tree_of
from tnkit.formats.tucker import Tucker

__all__ = ["norm_of_tree", "orthogonalize"]


@operations.orthogonalize.generic
def orthogonalize(value: Format, centre: int = 0) -> Format:
    """The same tensor with every node but one an isometry towards that one.

    Args:
        value: a format without loops or hyperedges: TT, TTMatrix, Tucker, HierarchicalTucker, LowRank, KroneckerSum, or
            a Network that is a tree.
        centre: the position of the node that keeps the norm, in the order of `tensors()`; negative ones count from the
            end. For Tucker and trees 0 is the core or the root; for a train -1 makes it left-orthogonal.

    Returns:
        the same format; bonds larger than what stands beyond them shrink.

    Raises:
        OptionError: a format with loops, or a node that it does not have.

    Example:
        >>> from tnkit.formats import random_format
        >>> tt = orthogonalize(random_format("tt", (4, 5, 6), 3, rng=0), -1)
        >>> core = tt.cores[0].reshape(4, 3)
        >>> bool(torch.allclose(core.mT @ core, torch.eye(3, dtype=core.dtype)))
        True
    """
    if not is_tree(value.topology()):
        raise OptionError(
            f"orthogonalize: a {value.name} has loops or hyperedges, so no node can be the centre. "
            "It takes trains, TT matrices, Tucker, trees, low-rank matrices and Kronecker sums."
        )
    tensors = value.tensors()
    if not -len(tensors) <= centre < len(tensors):
        raise OptionError(f"orthogonalize: centre={centre} is none of the {len(tensors)} nodes of this {value.name}.")
    nodes = tree_of(value.topology()).orthogonalize(tensors, centre % len(tensors))
    return value.with_tensors([t.contiguous() for t in nodes])


@operations.orthogonalize.register(Tensorized)
def orthogonalize_tensorized(value: Tensorized, centre: int = 0) -> Format:
    """The inner network."""
    return orthogonalize(value.format, centre).tensorized(value.plan)


@operations.norm.register(TT)
@operations.norm.register(TTMatrix)
@operations.norm.register(Tucker)
@operations.norm.register(HierarchicalTucker)
@operations.norm.register(LowRank)
@operations.norm.register(KroneckerSum)
@operations.norm.register(Network)
def norm_of_tree(value: Format) -> Tensor:
    """The norm of the centre of an orthogonal form: true to machine precision also where terms cancel.

    Where gradients are asked for, and for networks with loops, √⟨a, a⟩.
    """
    tensors = value.tensors()
    graph = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if torch.compiler.is_compiling() or graph or len({t.dtype for t in tensors}) > 1 or not is_tree(value.topology()):
        return norm_by_contraction(value)
    centre = max(range(len(tensors)), key=lambda k: tensors[k].numel())
    norm: Tensor = torch.linalg.vector_norm(tree_of(value.topology()).orthogonalize(tensors, centre)[centre])
    return norm
