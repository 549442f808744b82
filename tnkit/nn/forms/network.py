"""Any tensor network as a matrix: the contraction order is the planner's, for the batch at hand.

Rows and columns of the matrix are (padded and) split into the network's open labels, rows first. An input becomes one
more node of the network; a lookup takes slices of the nodes, so that no form needs its dense weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from tnkit.network import Topology, plan
from tnkit.network.plan import constant
from tnkit.nn.forms.base import FORMS, Factors, MatrixForm
from tnkit.nn.forms.halves import Halves, halves, matrices
from tnkit.nn.forms.steps import Shapes, Steps, dense_steps, internal_sizes, is_traced, parsed, run_steps, steps_of

__all__ = ["NetworkForm", "as_matrices", "bucket"]

#: Rows for which the contraction order is found while torch traces, compiles or exports.
TRACED_ROWS = 64
BATCH = "batch"
#: Two products of matrices may take this many times as many operations as the planner's order: they are done faster.
SLACK = 1.2


def bucket(n: int) -> int:
    """`n` rounded up to a power of two, so that varying lengths share a plan and a measurement.

    Example:
        >>> bucket(3), bucket(64)
        (4, 64)
    """
    return 1 << max(n - 1, 0).bit_length()


@dataclass(frozen=True, slots=True)
class NetworkForm(MatrixForm):
    """A matrix as a network.

    Attributes:
        equation: the topology, rows before columns among its open labels.
        shapes: of the nodes.
        n_rows: how many of the open labels are rows.
        modes: sizes of the open labels; rows may multiply to more than m, columns to more than n.

    Parameters: node0, node1, …

    Example:
        >>> form = NetworkForm(4, 6, "ia,aj->ij", ((4, 2), (2, 6)), 1, (4, 6))
        >>> x = torch.ones(3, 6)
        >>> form.apply({"node0": torch.ones(4, 2), "node1": torch.ones(2, 6)}, x)[0, 0]
        tensor(12.)
    """

    equation: str
    shapes: Shapes
    n_rows: int
    modes: tuple[int, ...]
    kind: ClassVar[str] = "network"

    @property
    def ranks(self) -> tuple[int, ...]:
        """Sizes of the internal labels."""
        return internal_sizes(self.equation, self.shapes)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """One for each node."""
        return {f"node{k}": shape for k, shape in enumerate(self.shapes)}

    def nodes(self, t: Factors) -> list[Tensor]:
        """The tensors in order."""
        return [t[f"node{k}"] for k in range(len(self.shapes))]

    def dense(self, t: Factors) -> Tensor:
        """The whole network, contracted."""
        how = as_matrices(self.equation, self.shapes, self.n_rows, 0)
        if how is not None:
            left, right = matrices(how, self.nodes(t))
            return left[: self.m] @ right[: self.n].mT
        wide = run_steps(dense_steps(self.equation, self.shapes), self.nodes(t))
        rows = prod(self.modes[: self.n_rows])
        return wide.reshape(rows, -1)[: self.m, : self.n]

    def apply(self, t: Factors, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The network with the input as one more node."""
        lead, columns = x.shape[:-1], self.modes[self.n_rows :]
        spare = prod(columns) - self.n
        rows = TRACED_ROWS if is_traced(x) else bucket(prod(lead))
        how = as_matrices(self.equation, self.shapes, self.n_rows, rows)
        if how is not None:
            left, right = matrices(how, self.nodes(t))
            return linear(x @ right[: self.n], left[: self.m], bias)
        flat = (pad(x, (0, spare)) if spare else x).reshape(-1, *columns)
        y = run_steps(_apply_steps(self.equation, self.shapes, self.n_rows, rows), [*self.nodes(t), flat])
        y = y.reshape(-1, prod(self.modes[: self.n_rows]))[:, : self.m]
        return (y if bias is None else y + bias).reshape(*lead, self.m)

    def pick(self, t: Factors, ids: Tensor) -> Tensor:
        """The network with its row labels fixed, one choice for each id."""
        flat, parts = ids.reshape(-1), []
        for n in reversed(self.modes[: self.n_rows]):
            parts.append(flat % n)
            flat = flat // n
        output, inputs = _labels(self.equation)
        digit = dict(zip(output[: self.n_rows], reversed(parts), strict=True))
        nodes = [_sliced(node, ls, digit) for node, ls in zip(self.nodes(t), inputs, strict=True)]
        rows = TRACED_ROWS if is_traced(ids) else bucket(max(ids.numel(), 1))
        y = run_steps(_pick_steps(self.equation, self.shapes, self.n_rows, rows), nodes)
        return y.reshape(-1, prod(self.modes[self.n_rows :]))[:, : self.n].reshape(*ids.shape, self.n)

    def macs(self) -> int:
        """Multiplications for each row of an input, at the batch for which compiled code is planned."""
        return macs_of(self.equation, self.shapes, self.n_rows)


@lru_cache(maxsize=2048)
def _find_matrices(equation: str, shapes: Shapes, n_rows: int, rows: int) -> Halves | None:
    how, topology = halves(equation, shapes, n_rows), parsed(equation)
    if how is None:
        return None
    sizes = topology.sizes(shapes)
    high, wide = (prod(sizes[label] for label in part) for part in (topology.output[:n_rows], topology.output[n_rows:]))
    width, flops = how[0], how[-1]
    if rows:
        products, planned = rows * width * (wide + high), plan(*_with_input(topology, shapes, n_rows, rows))
    else:
        products, planned = width * wide * high, plan(topology, shapes)
    return how if flops + 2 * products <= SLACK * planned.flops else None


@constant
def as_matrices(equation: str, shapes: Shapes, n_rows: int, rows: int) -> Halves | None:
    """How to make the two matrices whose product a network is, where that is hardly more work than the planner's order.

    With rows 0 for the dense matrix, otherwise for so many rows of an input.
    """
    return _find_matrices(equation, shapes, n_rows, rows)


def macs_of(equation: str, shapes: Shapes, n_rows: int) -> int:
    """Multiplications for each row of an input."""
    topology = parsed(equation)
    wide, inputs = _with_input(topology, shapes, n_rows, TRACED_ROWS)
    return plan(wide, inputs).flops // (2 * TRACED_ROWS)


def _sliced(node: Tensor, labels: tuple[str, ...], digit: dict[str, Tensor]) -> Tensor:
    """The node at one choice of its row labels for each id, (N, other labels)."""
    mine = [k for k, label in enumerate(labels) if label in digit]
    if not mine:
        return node
    order = [*mine, *(k for k in range(len(labels)) if k not in mine)]
    flat = node.permute(order).flatten(0, len(mine) - 1)
    position = torch.zeros_like(digit[labels[mine[0]]])
    for k in mine:
        position = position * node.shape[k] + digit[labels[k]]
    return flat.index_select(0, position)


def _with_input(topology: Topology, shapes: Shapes, n_rows: int, rows: int) -> tuple[Topology, Shapes]:
    columns = topology.output[n_rows:]
    wide = Topology((*topology.inputs, (BATCH, *columns)), (BATCH, *topology.output[:n_rows]))
    sizes = topology.sizes(shapes)
    return wide, (*shapes, (rows, *(sizes[label] for label in columns)))


@lru_cache(maxsize=2048)
def _planned_apply(equation: str, shapes: Shapes, n_rows: int, rows: int) -> Steps:
    return steps_of(*_with_input(parsed(equation), shapes, n_rows, rows))


@constant
def _apply_steps(equation: str, shapes: Shapes, n_rows: int, rows: int) -> Steps:
    return _planned_apply(equation, shapes, n_rows, rows)


@lru_cache(maxsize=2048)
def _planned_pick(equation: str, shapes: Shapes, n_rows: int, rows: int) -> Steps:
    sliced = sliced_topology(parsed(equation), n_rows)
    return steps_of(sliced, sliced.shapes({**parsed(equation).sizes(shapes), BATCH: rows}))


@constant
def _pick_steps(equation: str, shapes: Shapes, n_rows: int, rows: int) -> Steps:
    return _planned_pick(equation, shapes, n_rows, rows)


def sliced_topology(topology: Topology, n_rows: int) -> Topology:
    """The network at one choice of its row labels for each of several positions."""
    fixed = set(topology.output[:n_rows])
    inputs = tuple(
        (BATCH, *(label for label in labels if label not in fixed)) if fixed & set(labels) else labels
        for labels in topology.inputs
    )
    return Topology(inputs, (BATCH, *topology.output[n_rows:]))


@constant
def _labels(equation: str) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    topology = parsed(equation)
    return topology.output, topology.inputs


FORMS.register(NetworkForm.kind, NetworkForm)
