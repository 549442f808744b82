"""Entries, slices and sums over modes, without the dense tensor."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from tnkit.arrays import as_tensor
from tnkit.errors import OptionError, ShapeError
from tnkit.formats import operations
from tnkit.formats.base import Format
from tnkit.formats.chains import TT, TensorRing
from tnkit.formats.cp import CP
from tnkit.formats.network import Network, Tensorized
from tnkit.formats.tucker import Tucker
from tnkit.network import Part, Topology, contract, select

__all__ = ["normalize_indices", "open_network"]

#: Entries of the largest intermediate of one batch of `at`.
BATCH_ENTRIES = 2**23


def open_network(value: Format) -> tuple[list[tuple[str, ...]], list[Tensor], tuple[str, ...]]:
    """Labels and tensors of all nodes with the constants filled in, and the open labels."""
    topology = value.topology()
    given = iter(value.tensors())
    tensors = [next(given) if c is None else c.tensor(value.dtype, value.device) for c in topology.constants]
    return [*topology.inputs], tensors, topology.output


def normalize_indices(indices: Any, shape: Sequence[int], device: torch.device) -> Tensor:
    """Indices as (N, ndim) integers of 0 or more on `device`.

    Raises:
        ShapeError: another number of columns.
        OptionError: no integers, or out of range.
    """
    found = indices if isinstance(indices, Tensor) else as_tensor(indices, name="indices").tensor
    if found.is_floating_point() and isinstance(indices, Tensor):
        raise OptionError(f"indices have dtype {found.dtype}; whole numbers are needed.")
    table = found.to(device=device, dtype=torch.int64)
    if table.ndim != 2 or table.shape[1] != len(shape):
        raise ShapeError(
            f"indices of shape {tuple(table.shape)} do not fit {len(shape)} modes; give (N, {len(shape)})."
        )
    if not isinstance(indices, Tensor) and bool((found != found.round()).any()):
        raise OptionError("indices hold numbers that are not whole.")
    sizes = table.new_tensor(list(shape))
    outside = ((table < -sizes) | (table >= sizes)).any(dim=1)
    if bool(outside.any()):
        first = tuple(table[outside][0].tolist())
        raise OptionError(
            f"index {first} leaves the shape {tuple(shape)} ({int(outside.sum())} of {len(table)} do). "
            "Mode k takes -n_k … n_k - 1."
        )
    return torch.where(table < 0, table + sizes, table)


@operations.at.generic
def at(value: Format, indices: Any) -> Tensor:
    """Entries at (N, ndim) indices; cost N × the network with the modes fixed."""
    rows = normalize_indices(indices, value.shape, value.device)
    plan = value.view()
    rows = rows if plan is None else plan.positions(rows)
    labels, tensors, output = open_network(value)
    largest = max(_slice_size(t, ls, output) for ls, t in zip(labels, tensors, strict=True))
    size = max(1, BATCH_ENTRIES // max(1, largest))
    parts = [_entries(labels, tensors, output, rows[start : start + size]) for start in range(0, rows.shape[0], size)]
    dense = torch.cat(parts) if parts else tensors[0].new_empty(0)
    return dense.real if dense.is_complex() and not value.dtype.is_complex else dense


def _slice_size(t: Tensor, labels: tuple[str, ...], output: tuple[str, ...]) -> int:
    return prod(n for n, label in zip(t.shape, labels, strict=True) if label not in output)


def _entries(labels: list[tuple[str, ...]], tensors: list[Tensor], output: tuple[str, ...], rows: Tensor) -> Tensor:
    picked, inputs = [], []
    for ls, t in zip(labels, tensors, strict=True):
        axes = [k for k, label in enumerate(ls) if label in output]
        if not axes:
            picked.append(t)
            inputs.append(ls)
            continue
        rest = [k for k in range(t.ndim) if k not in axes]
        columns = tuple(rows[:, output.index(ls[k])] for k in axes)
        picked.append(t.permute(axes + rest)[columns])
        inputs.append(("#", *(ls[k] for k in rest)))
    wide = picked[0].dtype
    for t in picked:
        wide = torch.promote_types(wide, t.dtype)
    return contract(Topology(tuple(inputs), ("#",)), [t.to(wide) for t in picked])


def _normalize_key(key: Any, shape: Sequence[int]) -> list[int | list[int]]:
    """For each mode an integer, or the list of positions that are kept.

    Raises:
        OptionError: too many entries, or kinds that are no integers or slices.
    """
    parts = list(key) if isinstance(key, tuple) else [key]
    if sum(p is Ellipsis for p in parts) > 1:
        raise OptionError("An index can hold one '...' only.")
    if Ellipsis in [p for p in parts if p is Ellipsis]:
        where = next(k for k, p in enumerate(parts) if p is Ellipsis)
        parts[where : where + 1] = [slice(None)] * (len(shape) - len(parts) + 1)
    if len(parts) > len(shape):
        raise OptionError(f"{len(parts)} indices for a tensor of {len(shape)} modes.")
    parts += [slice(None)] * (len(shape) - len(parts))
    found: list[int | list[int]] = []
    for k, (part, n) in enumerate(zip(parts, shape, strict=True)):
        if isinstance(part, slice):
            found.append(list(range(n))[part])
        elif hasattr(part, "__index__") and not isinstance(part, bool):
            position = part.__index__()
            if not -n <= position < n:
                raise IndexError(f"index {position} is out of bounds for mode {k} with size {n}")
            found.append(position % n)
        else:
            raise OptionError(f"Index {part!r} of mode {k} is not supported; use integers and slices, or at(indices).")
        if found[-1] == []:
            raise OptionError(f"The slice of mode {k} (size {n}) is empty; a format needs modes of size 1 or more.")
    return found


@operations.getitem.generic
def getitem(value: Format, key: Any) -> Any:
    """Integers and slices, as NumPy indexes."""
    picks = _normalize_key(key, value.shape)
    if all(isinstance(p, int) for p in picks):
        return value.at([picks])[0]
    if value.view() is not None:
        return _dense_network(select(value.to_dense(), picks))
    if all(p == list(range(n)) for p, n in zip(picks, value.shape, strict=True)):
        return value
    topology = value.topology()
    chosen = dict(zip(topology.output, picks, strict=True))
    sizes = topology.sizes([t.shape for t in value.tensors()])
    by_node = [[chosen.get(label, range(sizes[label])) for label in labels] for labels in topology.inputs]
    tensors = [select(t, by_node[k]) for t, k in zip(value.tensors(), topology.parameters, strict=True)]
    gone = {label for label, p in chosen.items() if isinstance(p, int)}
    if not gone and len(topology.parameters) == len(topology.inputs):
        return value.with_tensors(tensors)
    kept = tuple(tuple(label for label in labels if label not in gone) for labels in topology.inputs)
    rest = tuple(label for label in topology.output if label not in gone)
    constants = tuple(
        c if c is None else Part(c, tuple(p if isinstance(p, int) else tuple(p) for p in node))
        for c, node in zip(topology.constants, by_node, strict=True)
    )
    return _tidy(type(value), Network(tuple(tensors), Topology(kept, rest, constants)))


def _dense_network(t: Tensor) -> Network:
    labels = tuple(f"i{k}" for k in range(t.ndim))
    return Network((t,), Topology((labels,), labels))


def _tidy(kind: type, network: Network) -> Format:
    """The result in the format it came from, where modes that are gone can be absorbed."""
    if kind in (TT, TensorRing):
        return kind.from_tensors(_absorb_chain(network.nodes))
    if kind is CP:
        weights = network.nodes[0]
        factors = []
        for t in network.nodes[1:]:
            if t.ndim == 1:
                weights = weights * t
            else:
                factors.append(t)
        return CP(weights, tuple(factors))
    if kind is Tucker:
        core = network.nodes[0]
        kept = []
        for k, t in reversed(list(enumerate(network.nodes[1:]))):
            if t.ndim == 1:
                core = torch.tensordot(core, t, dims=([k], [0]))
            else:
                kept.append(t)
        return Tucker(core, tuple(reversed(kept)))
    return network


def _absorb_chain(nodes: Sequence[Tensor]) -> list[Tensor]:
    """Multiply cores that have lost their mode into a neighbour."""
    cores: list[Tensor] = []
    pending: Tensor | None = None
    for t in nodes:
        if t.ndim == 2:
            pending = t if pending is None else pending @ t
            continue
        cores.append(t if pending is None else torch.tensordot(pending, t, dims=1))
        pending = None
    if pending is not None:
        cores[-1] = torch.tensordot(cores[-1], pending, dims=1)
    if len(cores) == 1 and cores[0].shape[0] != 1:
        cores = [torch.einsum("aia->i", cores[0])[None, :, None]]
    return cores


@operations.sum.generic
def sum_modes(value: Format, modes: int | Sequence[int] | None = None) -> Any:
    """Sum over modes: a format, or a 0-d tensor if no mode is left."""
    d = value.ndim
    chosen = range(d) if modes is None else ([modes] if isinstance(modes, int) else list(modes))
    wrong = [m for m in chosen if not -d <= m < d]
    if wrong:
        raise OptionError(f"Mode {wrong[0]} does not exist; the tensor has modes 0 … {d - 1}.")
    gone_modes = {m % d for m in chosen}
    if value.view() is not None:
        dense = value.to_dense()
        total = dense.sum(sorted(gone_modes)) if gone_modes else dense
        return total if total.ndim == 0 else _dense_network(total)
    topology = value.topology()
    gone = {topology.output[m] for m in gone_modes}
    rest = tuple(label for label in topology.output if label not in gone)
    if not rest:
        return contract(topology.with_output(()), value.tensors())
    if not gone:
        return value
    single = all(len(topology.nodes_of(label)) == 1 for label in gone)
    if not single or any(c is not None for c in topology.constants):
        return Network(value.tensors(), topology.with_output(rest))
    tensors = [_sum_labels(t, ls, gone) for t, ls in zip(value.tensors(), topology.inputs, strict=True)]
    kept = tuple(tuple(label for label in ls if label not in gone) for ls in topology.inputs)
    return _tidy(type(value), Network(tuple(tensors), Topology(kept, rest)))


def _sum_labels(t: Tensor, labels: tuple[str, ...], gone: set[str]) -> Tensor:
    axes = [k for k, label in enumerate(labels) if label in gone]
    return t.sum(axes) if axes else t


@operations.at.register(Tensorized)
def at_tensorized(value: Tensorized, indices: Any) -> Tensor:
    """Entries of a reshaped array: those of the inner format at the places where the plan puts them."""
    rows = normalize_indices(indices, value.shape, value.device)
    return value.format.at(value.plan.positions(rows))
