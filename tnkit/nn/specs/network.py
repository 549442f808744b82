"""NetworkLayer: any format of tnkit, or any network by its equation, for any layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, prod
from typing import ClassVar, Literal

from torch import Tensor

from tnkit.errors import OptionError, ShapeError
from tnkit.formats import FormatSpec, Layout, as_spec
from tnkit.network import Topology
from tnkit.nn.forms import Form, KernelNetworkForm, NetworkForm
from tnkit.nn.forms.network import macs_of
from tnkit.nn.specs.base import LAYER_SPECS, Fitted
from tnkit.nn.specs.ladder import LadderSpec, Structure
from tnkit.nn.views import WeightView
from tnkit.tensorize import Tensorization, factors_for

__all__ = ["NetworkLayer"]

#: Formats that read an array as a matrix by themselves.
MATRICES = ("lowrank", "ttm", "btt", "monarch", "blast", "kron")
#: Formats that lose less at the same size, and are faster, with each side in two parts alone.
HALVED = ("cp",)


@dataclass(frozen=True, slots=True, repr=False)
class NetworkLayer(LadderSpec):
    """A layer whose weight is a tensor network.

    The weight of a linear layer or an embedding is a matrix: formats of matrices (low rank, TT matrix, block TT,
    Monarch, BLAST, Kronecker sum) take it as it is, formats of arrays (TT, ring, Tucker, CP, block term, trees,
    equations) take it with its sides split into `rows` and `columns`. The kernel of a convolution is an array (o, i,
    *k) of each group.

    Attributes:
        format: a name, a `FormatSpec`, an equation or a `Topology`.
        rank: see `LadderSpec`.
        rows: factors of the number of rows; padded where they multiply to more. By default near-equal ones.
        columns: factors of the number of columns.
        order: "split" (all rows, then all columns) or "interleaved" (one mode for each pair of factors).

    Example:
        >>> import torch
        >>> from tnkit import nn as tnn
        >>> layer = torch.nn.Linear(64, 64)
        >>> tnn.compress_layer(layer, tnn.NetworkLayer("blast", rank=8)).module(torch.ones(2, 64)).shape
        torch.Size([2, 64])
        >>> tnn.NetworkLayer("tt", rank=4, rows=(8, 8), columns=(8, 8))
        NetworkLayer(rank=4, format='tt', rows=(8, 8), columns=(8, 8))
    """

    format: str | FormatSpec | Topology = "btt"
    rows: tuple[int, ...] | None = None
    columns: tuple[int, ...] | None = None
    order: Literal["split", "interleaved"] = "split"
    name: ClassVar[str] = "network"
    reads: ClassVar[tuple[str, ...]] = ("matrix", "kernel")

    def structure(self, view: WeightView) -> Structure:
        """The format over one group's weight.

        Raises:
            OptionError: a format that holds constants, or options that do not fit together.
        """
        spec = as_spec(self.format)
        plan = Tensorization.start(view.shape)
        if not view.kernel and spec.name not in MATRICES:
            plan = self._split(plan, spec)
        layout = spec.layout(plan.out_shape)
        if any(c is not None for c in layout.topology.constants):
            raise OptionError(
                f"NetworkLayer({layout.name!r}) holds constants. Use a format whose nodes are parameters."
            )
        return Structure(spec, plan, layout)

    def _split(self, plan: Tensorization, spec: FormatSpec) -> Tensorization:
        """A matrix with its sides split."""
        m, n = plan.shape
        rows, columns = self._factors(m, n, spec)
        if prod(rows) < m or prod(columns) < n:
            raise ShapeError(
                f"NetworkLayer: factors {rows} x {columns} do not cover a weight of {m} x {n}. "
                "Give factors whose products are at least its sides."
            )
        plan = plan.pad((prod(rows), prod(columns))).reshape((*rows, *columns))
        if self.order == "split":
            return plan
        d = len(rows)
        if d != len(columns):
            raise OptionError(f"NetworkLayer: order='interleaved' needs as many rows {rows} as columns {columns}.")
        pairs = tuple(k for pair in zip(range(d), range(d, 2 * d), strict=True) for k in pair)
        return plan.permute(pairs).reshape(tuple(a * b for a, b in zip(rows, columns, strict=True)))

    def _factors(self, m: int, n: int, spec: FormatSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
        graph = getattr(spec, "equation", None)
        if graph is None:
            parts = 2 if spec.name in HALVED else max(2, round(log(max(m, n, 2)) / log(10)))
            left = right = len(self.rows or self.columns or ()) or parts
        else:
            modes = len((graph if isinstance(graph, Topology) else Topology.parse(graph)).output)
            left, right = (modes, modes) if self.order == "interleaved" else (modes // 2, modes - modes // 2)
            if self.rows is not None:
                left = len(self.rows)
                right = modes if self.order == "interleaved" else modes - left
        if min(left, right) < 1:
            raise OptionError(f"NetworkLayer: {self.format} has too few open labels for a matrix; it needs two.")
        rows = self.rows or factors_for(m, left)
        return tuple(rows), tuple(self.columns or reversed(factors_for(n, right)))

    def macs(self, view: WeightView, structure: Structure, ranks: tuple[int, ...]) -> tuple[int, int]:
        """As the planner counts them; at the output, but for a first 1×1 convolution."""
        shapes = structure.layout.shapes(ranks)
        if not view.kernel:
            form = self._matrix_form(view, structure, shapes)
            return 0, macs_of(form.equation, form.shapes, form.n_rows)
        staged = self._kernel_form(view, structure, shapes).core_macs()
        whole = view.groups * prod(view.shape)
        first, core, last = (0, whole, 0) if staged is None else staged
        return (first + core, last) if view.transposed else (first, core + last)

    def form(self, view: WeightView, fitted: Fitted) -> tuple[Form, Mapping[str, Tensor]]:
        """A network of the nodes; of interleaved ones the modes are split again."""
        structure, tensors = self.structure(view), fitted.tensors()
        names = {f"node{k}": t for k, t in enumerate(tensors)}
        lead = 0 if view.groups == 1 else 1
        shapes = tuple(tuple(t.shape[lead:]) for t in tensors)
        if view.kernel:
            return self._kernel_form(view, structure, shapes), names
        return self._matrix_form(view, structure, shapes), names

    def _kernel_form(
        self, view: WeightView, structure: Structure, shapes: tuple[tuple[int, ...], ...]
    ) -> KernelNetworkForm:
        moves = tuple((kind, to) for kind, to, _ in structure.over().moves)
        (o, i), equation = view.shape[:2], spelled(structure.layout.topology)
        return KernelNetworkForm(view.groups, o, i, view.kernel, equation, shapes, moves)

    def _matrix_form(self, view: WeightView, structure: Structure, shapes: tuple[tuple[int, ...], ...]) -> NetworkForm:
        m, n = view.shape
        topology, layout = structure.layout.topology, structure.layout
        if layout.name not in MATRICES and self.order == "interleaved":
            rows, columns = self._factors(m, n, structure.spec)
            return NetworkForm(m, n, *_unmerged(topology, shapes, rows, columns), len(rows), (*rows, *columns))
        modes = layout.inner_shape
        return NetworkForm(m, n, spelled(topology), shapes, _n_rows(layout, structure.over(), m), modes)


def _n_rows(layout: Layout, plan: Tensorization, m: int) -> int:
    """How many of the network's modes are rows: those whose sizes multiply to the rows of the padded matrix."""
    padded = next((move.out[0] for move in plan.moves if move.kind == "pad"), m)
    sizes, count = layout.inner_shape, 1
    while prod(sizes[:count]) < padded:
        count += 1
    return count


def _unmerged(
    topology: Topology, shapes: tuple[tuple[int, ...], ...], rows: tuple[int, ...], columns: tuple[int, ...]
) -> tuple[str, tuple[tuple[int, ...], ...]]:
    """The network with each open label in two: its factor of the rows and its factor of the columns."""
    pairs = {label: (f"row{k}", f"col{k}") for k, label in enumerate(topology.output)}
    sizes = {label: (rows[k], columns[k]) for k, label in enumerate(topology.output)}
    inputs = tuple(tuple(new for old in labels for new in pairs.get(old, (old,))) for labels in topology.inputs)
    output = (*(pairs[label][0] for label in topology.output), *(pairs[label][1] for label in topology.output))
    split = tuple(
        tuple(n for label, size in zip(labels, shape, strict=True) for n in sizes.get(label, (size,)))
        for labels, shape in zip(topology.inputs, shapes, strict=True)
    )
    return spelled(Topology(inputs, output)), split


def spelled(topology: Topology) -> str:
    """The equation with spaces between labels, which reads back whatever the labels are."""
    terms = ", ".join(" ".join(labels) for labels in topology.inputs)
    return f"{terms} -> {' '.join(topology.output)}"


LAYER_SPECS.register(NetworkLayer.name, NetworkLayer)
