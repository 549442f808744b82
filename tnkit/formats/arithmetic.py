"""Sums, products, inner products and norms, on the graph."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tnkit.arrays import as_tensor
from tnkit.errors import ShapeError
from tnkit.formats import operations
from tnkit.formats.base import Format, traced_topology
from tnkit.formats.chains import TT
from tnkit.formats.matrices import LowRank, TTMatrix
from tnkit.formats.network import Network, Tensorized
from tnkit.network import Topology, block_sum, contract, hadamard
from tnkit.network.plan import constant, contract_key
from tnkit.network.topology import TopologyKey
from tnkit.tensorize import Tensorization

__all__ = ["modes_of"]


def modes_of(topology: Topology, prefix: str) -> Topology:
    """The topology with its open labels renamed i0, i1 … and the internal ones prefixed, to be joined with another."""
    names = {label: f"{prefix}{label}" for label in topology.internal}
    return topology.relabel(names | {label: f"i{k}" for k, label in enumerate(topology.output)})


def _dot(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = torch.linalg.vecdot(a.flatten(), b.flatten())
    return product


def _same_shape(a: Format, b: Format, what: str) -> None:
    if a.shape != b.shape:
        raise ShapeError(
            f"Cannot {what} a {a.name} of shape {a.shape} and a {b.name} of shape {b.shape}; shapes must be equal."
        )


def _same_structure(a: Format, b: Format) -> bool:
    return type(a) is type(b) and a.static() == b.static() and a.topology() == b.topology()


def _dense(a: Format) -> Network:
    dense = a.to_dense()
    labels = tuple(f"i{k}" for k in range(dense.ndim))
    return Network((dense,), Topology((labels,), labels))


@operations.to_network.generic
def to_network(a: Format) -> Network:
    """The nodes and the graph."""
    return Network(a.tensors(), a.topology())


@operations.tensorized.generic
def tensorized(a: Format, plan: Tensorization) -> Format:
    """Read as the array that the plan turns into it."""
    return Tensorized.over(a, plan)


@operations.scale.generic
def scale(a: Format, factor: Any) -> Format:
    """Product with a number; one tensor takes it."""
    first, *rest = a.tensors()
    scaled = first * factor
    return a.with_tensors([scaled, *(t.to(torch.promote_types(t.dtype, scaled.dtype)) for t in rest)])


@operations.add.generic
def add(a: Format, b: Format) -> Format:
    """Sum: of equal structure block-diagonal nodes (ranks add), otherwise a network that selects one of the two."""
    _same_shape(a, b, "add")
    if _same_structure(a, b):
        topology, nodes = block_sum(a.topology(), a.tensors(), b.tensors())
        if topology == a.topology():
            return a.with_tensors(nodes)
        if a.view() is None:
            return Network(nodes, topology)
    if a.view() is not None or b.view() is not None:
        dense_a, dense_b = _dense(a), _dense(b)
        return Network((dense_a.nodes[0] + dense_b.nodes[0],), dense_a.graph)
    return _choice(a, b)


@operations.shift.generic
def shift(a: Format, number: Any) -> Format:
    """A number added to every entry: the sum with a format of rank one whose entries are all ones, times the number."""
    if not isinstance(number, Tensor) and number == 0:
        return a  # so that Python's sum() of formats adds no rank
    topology, ones = a.topology(), a.tensors()[0].new_ones
    if a.view() is None and all(c is None for c in topology.constants):
        sizes = dict(zip(topology.output, a.shape, strict=True))
        return operations.add(
            a,
            operations.scale(
                a.with_tensors([ones([sizes.get(label, 1) for label in labels]) for labels in topology.inputs]), number
            ),
        )
    labels = tuple(f"i{k}" for k in range(a.ndim))
    flat = Network(tuple(ones(n) for n in a.shape), Topology(tuple((label,) for label in labels), labels))
    return operations.add(a, operations.scale(flat, number))


def _choice(a: Format, b: Format) -> Network:
    """Both networks, joined at their modes by a label of two values: at the first b is one, at the second a is."""
    top_a, top_b = modes_of(a.topology(), "a"), modes_of(b.topology(), "b")
    if any(c is not None for c in top_a.constants + top_b.constants):
        dense_a, dense_b = _dense(a), _dense(b)
        return Network((dense_a.nodes[0] + dense_b.nodes[0],), dense_a.graph)
    dtype = torch.promote_types(a.dtype, b.dtype)
    nodes = [
        _or_ones(t.to(dtype), labels, top_a.output, 0) for t, labels in zip(a.tensors(), top_a.inputs, strict=True)
    ]
    nodes += [
        _or_ones(t.to(dtype), labels, top_b.output, 1) for t, labels in zip(b.tensors(), top_b.inputs, strict=True)
    ]
    inputs = tuple(("+", *labels) for labels in top_a.inputs + top_b.inputs)
    return Network(tuple(nodes), Topology(inputs, top_a.output))


def _or_ones(t: Tensor, labels: tuple[str, ...], output: tuple[str, ...], position: int) -> Tensor:
    """A leading axis of two: the tensor at `position`, and beside it a node of a network that is one everywhere."""
    ones = torch.zeros_like(t)
    ones[tuple(slice(None) if label in output else slice(0, 1) for label in labels)] = 1
    return torch.stack([t, ones] if position == 0 else [ones, t])


@operations.multiply.generic
def multiply(a: Format, b: Format) -> Format:
    """Elementwise product: Kronecker products of equal structures, otherwise both networks joined at their modes."""
    _same_shape(a, b, "multiply")
    plain = not any(c is not None for c in a.topology().constants)
    if _same_structure(a, b) and plain:
        return a.with_tensors(hadamard(a.topology(), a.tensors(), b.tensors()))
    if a.view() is not None or b.view() is not None:
        dense_a, dense_b = _dense(a), _dense(b)
        return Network((dense_a.nodes[0] * dense_b.nodes[0],), dense_a.graph)
    top_a, top_b = modes_of(a.topology(), "a"), modes_of(b.topology(), "b")
    joined = Topology(top_a.inputs + top_b.inputs, top_a.output, top_a.constants + top_b.constants)
    return Network(a.tensors() + b.tensors(), joined)


@operations.inner.generic
def inner(a: Format, b: Format) -> Tensor:
    """⟨a, b⟩ = Σ conj(a)·b, by contraction of both networks; 0-d."""
    view = a.view()
    if view != b.view() or (view is not None and view.pads):
        _same_shape(a, b, "take the inner product of")
        return _dot(a.to_dense(), b.to_dense())
    dtype = torch.promote_types(a.dtype, b.dtype)
    tensors = [t.conj().to(dtype) for t in a.tensors()] + [t.to(dtype) for t in b.tensors()]
    if torch.compiler.is_compiling():
        joined = _inner_key(traced_topology(a), traced_topology(b))
        return _dot(a.to_dense(), b.to_dense()) if joined is None else contract_key(joined, tensors)
    _same_shape(a, b, "take the inner product of")
    graph = _inner_topology(a.topology(), b.topology())
    return _dot(a.to_dense(), b.to_dense()) if graph is None else contract(graph, tensors)


def _inner_topology(a: Topology, b: Topology) -> Topology | None:
    """Both networks joined at their modes; None if one holds constants, which would have to be conjugated as well."""
    if any(c is not None for c in a.constants + b.constants):
        return None
    return Topology(modes_of(a, "a").inputs + modes_of(b, "b").inputs, ())


@constant
def _inner_key(a: TopologyKey, b: TopologyKey) -> TopologyKey | None:
    joined = _inner_topology(Topology.from_key(a), Topology.from_key(b))
    return None if joined is None else joined.key()


@operations.norm.generic
def norm(a: Format) -> Tensor:
    """√⟨a, a⟩; relative accuracy √(machine eps) where terms cancel."""
    return torch.sqrt(torch.clamp(inner(a, a).real, min=0.0))


@operations.matmul.generic
def matmul(a: Format, b: Any) -> Any:
    """Contract the last mode of `a` with the first of `b`."""
    if isinstance(b, Format):
        return _matmul_formats(a, b)
    if isinstance(b, np.ndarray):
        incoming = as_tensor(b, name="the right operand")
        return incoming.back(matmul(a, incoming.tensor.to(a.device)))
    if b.ndim == 0 or b.shape[0] != a.shape[-1]:
        raise ShapeError(f"Cannot multiply a {a.name} of shape {a.shape} with a tensor of shape {tuple(b.shape)}.")
    if (plan := a.view()) is not None:
        return _matmul_matrix(a, b, plan)
    top = modes_of(a.topology(), "a")
    tail = tuple(f"x{k}" for k in range(b.ndim - 1))
    joined = Topology((*top.inputs, (top.output[-1], *tail)), top.output[:-1] + tail, (*top.constants, None))
    dtype = torch.promote_types(a.dtype, b.dtype)
    return contract(joined, [t.to(dtype) for t in a.tensors()] + [b.to(dtype)])


def _matmul_matrix(a: Format, b: Tensor, plan: Tensorization) -> Tensor:
    """A matrix that was padded and reshaped, times a dense tensor, factored: pad and reshape the operand instead."""
    split = _row_split(plan)
    if split is None:
        dense: Tensor = torch.tensordot(a.to_dense(), b, dims=1)
        return dense
    rows, padded = split
    columns = plan.out_shape[rows:]
    batch = tuple(b.shape[1:])
    operand = torch.cat([b, b.new_zeros((padded[1] - b.shape[0], *batch))]) if padded[1] > b.shape[0] else b
    top = modes_of(a.topology(), "a")
    joined = Topology((*top.inputs, (*top.output[rows:], "x")), (*top.output[:rows], "x"), (*top.constants, None))
    dtype = torch.promote_types(a.dtype, b.dtype)
    tensors = [t.to(dtype) for t in a.tensors()]
    result = contract(joined, [*tensors, operand.reshape(*columns, -1).to(dtype)])
    return result.reshape(padded[0], *batch)[: plan.shape[0]]


def _row_split(plan: Tensorization) -> tuple[int, tuple[int, int]] | None:
    """How many modes are rows, and the padded matrix, where the plan only pads and reshapes a matrix."""
    if len(plan.shape) != 2 or any(move.kind == "permute" for move in plan.moves):
        return None
    kinds = [move.kind for move in plan.moves]
    if kinds not in (["pad", "reshape"], ["reshape"]):
        return None
    padded = plan.moves[0].out if kinds[0] == "pad" else plan.shape
    for rows in range(len(plan.out_shape) + 1):
        if prod(plan.out_shape[:rows]) == padded[0] and prod(plan.out_shape[rows:]) == padded[1]:
            return rows, (padded[0], padded[1])
    return None


def _matmul_formats(a: Format, b: Format) -> Network:
    if a.shape[-1] != b.shape[0]:
        raise ShapeError(f"Cannot multiply a {a.name} of shape {a.shape} with a {b.name} of shape {b.shape}.")
    left = a if a.view() is None else _dense(a)
    right = b if b.view() is None else _dense(b)
    return _matmul_groups(left, right, 1)


@operations.matmul.register(LowRank, LowRank)
def matmul_lowrank(a: LowRank, b: LowRank) -> LowRank:
    """The smaller rank of the two stays."""
    if a.shape[1] != b.shape[0]:
        raise ShapeError(f"Cannot multiply low-rank matrices of shapes {a.shape} and {b.shape}.")
    middle = a.right @ b.left
    if middle.shape[0] <= middle.shape[1]:
        return LowRank(a.left, middle @ b.right)
    return LowRank(a.left @ middle, b.right)


@operations.matmul.register(TTMatrix, TTMatrix)
def matmul_ttm(a: TTMatrix, b: TTMatrix) -> Format:
    """All column modes of `a` with all row modes of `b`; ranks multiply. Split orders go by networks."""
    if a.shape[a.row_modes :] != b.shape[: b.row_modes]:
        raise ShapeError(
            f"Cannot multiply TT matrices: columns {a.shape[a.row_modes :]} against rows {b.shape[: b.row_modes]}."
        )
    if a.order == b.order == "interleaved":
        cores = [
            torch.einsum("amnb,cnpd->acmpbd", x, y).reshape(x.shape[0] * y.shape[0], x.shape[1], y.shape[2], -1)
            for x, y in zip(a.cores, b.cores, strict=True)
        ]
        return TTMatrix(tuple(cores), len(cores), "interleaved")
    return _matmul_groups(a, b, a.column_modes)


@operations.matmul.register(TTMatrix, TT)
def matmul_ttm_tt(a: TTMatrix, b: TT) -> Format:
    """All column modes of `a` with all modes of `b`; ranks multiply."""
    if a.shape[a.row_modes :] != b.shape:
        raise ShapeError(
            f"Cannot multiply a TT matrix with columns {a.shape[a.row_modes :]} and a TT of shape {b.shape}."
        )
    if a.order == "interleaved":
        cores = [
            torch.einsum("amnb,cnd->acmbd", x, y).reshape(x.shape[0] * y.shape[0], x.shape[1], -1)
            for x, y in zip(a.cores, b.cores, strict=True)
        ]
        return TT(tuple(cores))
    return _matmul_groups(a, b, a.column_modes)


def _matmul_groups(a: Format, b: Format, count: int) -> Network:
    """Contract the last `count` modes of `a` with the first `count` of `b`."""
    top_a, top_b = modes_of(a.topology(), "a"), modes_of(b.topology(), "b")
    first = a.ndim - count
    left = top_a.relabel({f"i{first + k}": f"*{k}" for k in range(count)})
    right = top_b.relabel({f"i{k}": f"*{k}" if k < count else f"j{k}" for k in range(b.ndim)})
    output = tuple(f"i{k}" for k in range(first)) + tuple(f"j{k}" for k in range(count, b.ndim))
    joined = Topology(left.inputs + right.inputs, output, left.constants + right.constants)
    return Network(a.tensors() + b.tensors(), joined)
