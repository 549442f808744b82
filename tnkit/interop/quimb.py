"""quimb: its TensorNetwork, MatrixProductState and MatrixProductOperator, both ways, hyperedges included.

Example:
    >>> from tnkit.formats import random_format
    >>> from tnkit.interop.quimb import from_quimb, to_quimb
    >>> tt = random_format("tt", (4, 5, 6), rank=2, rng=0)
    >>> there = to_quimb(tt)
    >>> type(there).__name__, from_quimb(there).ranks
    ('MatrixProductState', (2, 2))
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from tnkit.errors import DTypeError, MissingExtraError, ShapeError
from tnkit.formats import TT, Format, Network, TensorRing, TTMatrix
from tnkit.interop._arrays import incoming, outgoing
from tnkit.network import Topology

try:
    import quimb.tensor as qtn
except ImportError as error:
    raise MissingExtraError("quimb is not installed. Install it with: pip install 'tnkit[interop]'.") from error

__all__ = ["from_quimb", "to_quimb", "to_quimb_network"]


def to_quimb(value: Format, *, backend: str = "numpy") -> Any:
    """The quimb object that is nearest to a format.

    Args:
        value: any format that is not reshaped; of a Tensorized, convert its `.format`.
        backend: what the tensors hold: "numpy" or "torch". Torch tensors share memory with `value`, so gradients flow.

    Returns:
        A MatrixProductState of a TT (or, cyclic, of a TensorRing) with the modes "k0", "k1" …; a MatrixProductOperator
        of an interleaved TTMatrix, with rows "k0" … and columns "b0" …; of anything else a TensorNetwork
        (`to_quimb_network`).

    Raises:
        DTypeError: a Tensorized.
        OptionError: another backend.

    Example:
        >>> from tnkit.formats import random_format
        >>> to_quimb(random_format("ttm", (3, 4, 3, 4), rank=2, rng=0)).to_dense().shape
        (12, 12)
    """
    if isinstance(value, TT):
        return qtn.MatrixProductState(_open_ends(value.cores, backend), shape="lpr")
    if isinstance(value, TensorRing) and len(value.cores) > 2:
        return qtn.MatrixProductState([outgoing(t, backend) for t in value.cores], shape="lpr")
    if isinstance(value, TTMatrix) and value.order == "interleaved":
        return qtn.MatrixProductOperator(_open_ends(value.cores, backend), shape="ludr")
    return to_quimb_network(value, backend=backend)


def _open_ends(cores: Sequence[Tensor], backend: str) -> list[Any]:
    """Without the bonds of size 1 at both ends, which quimb leaves out."""
    opened = list(cores)
    opened[0] = opened[0].squeeze(0)
    opened[-1] = opened[-1].squeeze(-1)
    return [outgoing(t, backend) for t in opened]


def to_quimb_network(value: Format, *, backend: str = "numpy") -> Any:
    """The TensorNetwork of any format: one quimb tensor a node, the constants (such as Fourier matrices) filled in.

    Args:
        value: any format that is not reshaped.
        backend: "numpy" or "torch".

    Returns:
        A TensorNetwork (complex where a constant is) whose mode k is the index "k{k}" and whose other indices are the
        labels of the topology. A label may stand on more than two tensors, so contract it with `output_inds=[f"k{k}"
        for k in range(value.ndim)]`.

    Raises:
        DTypeError: a Tensorized.
        OptionError: another backend.
    """
    if value.view() is not None:
        raise DTypeError(
            f"A {type(value).__name__} is a reshaped array, which quimb has no object for. Convert its .format, and "
            "give the result back to .tensorized(plan)."
        )
    topology = value.topology()
    names = {label: f"_{label}" for label in topology.internal}
    named = topology.relabel(names | {label: f"k{k}" for k, label in enumerate(topology.output)})
    given = iter(value.tensors())
    tensors = [next(given) if c is None else c.tensor(value.dtype, value.device) for c in topology.constants]
    wide = reduce(torch.promote_types, (t.dtype for t in tensors))
    tensors = [t.to(wide) for t in tensors]
    alone = {label for label in named.internal if len(named.nodes_of(label)) == 1}  # summed, as quimb would open them
    nodes = []
    for k, (t, labels) in enumerate(zip(tensors, named.inputs, strict=True)):
        axes = [axis for axis, label in enumerate(labels) if label in alone]
        rest = [label for label in labels if label not in alone]
        nodes.append(qtn.Tensor(outgoing(t.sum(axes) if axes else t, backend), inds=rest, tags=f"I{k}"))
    return qtn.TensorNetwork(nodes)


def from_quimb(value: Any, output_inds: Sequence[str] | None = None) -> Format:
    """The format of a quimb object.

    Args:
        value: a MatrixProductState, a MatrixProductOperator, any other TensorNetwork, or a Tensor.
        output_inds: the open indices, in the order of the modes; by default those that stand on one tensor only, in
            quimb's order. Needed where an open index is a hyperedge.

    Returns:
        A TT (cyclic: TensorRing) of a MatrixProductState, a TTMatrix of an open MatrixProductOperator (rows are its
        upper indices), a Network of anything else, or wherever `output_inds` is given.

    Raises:
        DTypeError: another kind of object.
        ShapeError: no open index of that name.
    """
    if isinstance(value, qtn.Tensor):
        value = qtn.TensorNetwork([value])
    if not isinstance(value, qtn.TensorNetwork):
        raise DTypeError(f"from_quimb takes a TensorNetwork, an MPS, an MPO or a Tensor, not {type(value).__name__}.")
    if output_inds is None and value.num_tensors == getattr(value, "L", None):
        if isinstance(value, qtn.MatrixProductState) and not (value.cyclic and value.L < 3):
            return _from_mps(value)
        if isinstance(value, qtn.MatrixProductOperator) and not value.cyclic:
            return _from_mpo(value)
    return _from_network(value, output_inds)


def _from_mps(mps: Any) -> Format:
    cores = _chain(mps, [[mps.site_ind(site)] for site in mps.sites], cyclic=mps.cyclic)
    return TensorRing.from_cores(cores) if mps.cyclic else TT.from_cores(cores)


def _from_mpo(mpo: Any) -> Format:
    return TTMatrix.from_cores(_chain(mpo, [[mpo.upper_ind(s), mpo.lower_ind(s)] for s in mpo.sites], cyclic=False))


def _chain(network: Any, modes: list[list[str]], *, cyclic: bool) -> list[Tensor]:
    """Cores (left bond, modes, right bond), with bonds of size 1 at open ends."""
    tensors = [network[site] for site in network.sites]
    sites = len(tensors)
    cores = []
    for k, (tensor, own) in enumerate(zip(tensors, modes, strict=True)):
        left = _bond(tensors[k - 1], tensor) if k > 0 or cyclic else None
        right = _bond(tensor, tensors[(k + 1) % sites]) if k < sites - 1 or cyclic else None
        order = [index for index in (left, *own, right) if index is not None]
        core = incoming(tensor.transpose(*order).data, f"site {k}")
        core = core if left is not None else core.unsqueeze(0)
        cores.append(_scaled(core, network, k) if right is not None else _scaled(core.unsqueeze(-1), network, k))
    return cores


def _bond(a: Any, b: Any) -> str:
    """The index that two neighbours share."""
    shared: tuple[str, ...] = tuple(a.bonds(b))
    if len(shared) != 1:
        raise ShapeError(f"Neighbouring sites share {len(shared)} bonds, not one. Give the network's output_inds.")
    return shared[0]


def _scaled(t: Tensor, network: Any, position: int) -> Tensor:
    """The first tensor takes the power of ten that quimb keeps beside a network."""
    exponent = float(getattr(network, "exponent", 0.0))
    return t * 10.0**exponent if position == 0 and exponent else t


def _from_network(network: Any, output_inds: Sequence[str] | None) -> Network:
    output = tuple(network.outer_inds() if output_inds is None else output_inds)
    unknown = [index for index in output if index not in network.ind_map]
    if unknown:
        raise ShapeError(f"output_inds: {unknown[0]!r} stands on no tensor. Open indices: {network.outer_inds()}.")
    tensors: list[Any] = [t.collapse_repeated() for t in network.tensors]
    labels = tuple(tuple(map(str, t.inds)) for t in tensors)
    nodes = [_scaled(_node(t.data, k), network, k) for k, t in enumerate(tensors)]
    wide = reduce(torch.promote_types, (t.dtype for t in nodes))
    return Network.from_equation(Topology(labels, tuple(map(str, output))), [t.to(wide) for t in nodes])


def _node(array: Any, k: int) -> Tensor:
    """A tensor of any number of axes, a scalar as well."""
    shape = tuple(array.shape)
    return incoming(array.reshape((1,)) if not shape else array, f"tensor {k}").reshape(shape)
