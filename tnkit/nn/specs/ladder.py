"""LadderSpec: formats whose error at a rank is known only when they are fitted, on a ladder of ranks."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tnkit.api import decompose
from tnkit.decompose import MatrixSVD, RingSVD
from tnkit.formats import FormatSpec, Layout, Network, Tensorized, resolve_ranks
from tnkit.formats.ranks import ranks_within
from tnkit.network import Topology
from tnkit.nn.metric_fit import fit_in_metric
from tnkit.nn.specs.base import Fitted, Floats, LayerSpec, RankGrid
from tnkit.nn.stats import Metric
from tnkit.nn.views import WeightView
from tnkit.tensorize import Tensorization

__all__ = ["LadderSpec", "Structure"]

#: Rungs of a ladder of ranks, where fits are closed forms and where they iterate.
RUNGS, FEW_RUNGS = 12, 6
#: Multiplications above which a sweep over a ring would outlast any time limit: it is then not begun.
SWEEP = 10**10
DIRECT = ("tt", "ttm", "tucker", "ht", "lowrank", "btt", "monarch", "kron")


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """A format over a weight.

    Attributes:
        spec: of the format.
        plan: from the weight of one group to the array that the format is over.
        layout: of the format over that array.
    """

    spec: FormatSpec
    plan: Tensorization
    layout: Layout

    def over(self) -> Tensorization:
        """From the weight of one group to the network's own modes."""
        plan = self.plan
        for kind, to, _ in () if self.layout.tensorization is None else self.layout.tensorization.moves:
            plan = {"pad": plan.pad, "reshape": plan.reshape, "permute": plan.permute}[kind](to)
        return plan


@dataclass(frozen=True, slots=True, repr=False)
class LadderSpec(LayerSpec):
    """Base of the specifications that fit a format.

    Attributes:
        rank: an int for every bond, a tuple, or a mapping by bond; None leaves it to keep, max_error or the budget.
        method: of `tk.decompose`.
        time_limit_s: after which a fit that iterates takes its best so far; None for no limit.
    """

    rank: int | tuple[int, ...] | Mapping[str, int] | None = field(default=None, kw_only=True)
    method: Any = field(default="auto", kw_only=True)
    time_limit_s: float | None = field(default=30.0, kw_only=True)

    n_ranks: ClassVar[int] = 0

    @property
    def asked_rank(self) -> tuple[int, ...] | None:
        """The rank as a tuple."""
        if self.rank is None or isinstance(self.rank, tuple):
            return self.rank
        return tuple(self.rank.values()) if isinstance(self.rank, Mapping) else (self.rank,)

    @abc.abstractmethod
    def structure(self, view: WeightView) -> Structure:
        """The format over one group's weight."""

    @abc.abstractmethod
    def macs(self, view: WeightView, structure: Structure, ranks: tuple[int, ...]) -> tuple[int, int]:
        """Multiplications for each position of the input and of the output."""

    def grid(self, view: WeightView) -> RankGrid:
        """One row where a rank or a share is asked for; otherwise ranks whose sizes grow evenly.

        Raises:
            RankError: a rank that the weight does not admit.
            BudgetError: a share in which not even rank 1 fits.
        """
        structure = self.structure(view)
        layout, size = structure.layout, int(np.prod(view.shape))
        if self.rank is not None:
            rows = [resolve_ranks(layout, self.rank)]
        elif self.keep is not None and self.max_error is None:
            rows = [ranks_within(layout, int(self.keep * size))]
        else:
            least, count = layout.n_params((1,) * len(layout.bonds)), RUNGS if layout.name in DIRECT else FEW_RUNGS
            sizes = np.geomspace(least, max(size, least + 1), count)
            rows = list(dict.fromkeys(ranks_within(layout, int(np.ceil(s))) for s in sizes))
        cost = np.array([view.groups * layout.n_params(r) for r in rows], dtype=np.int64)
        macs = np.array([self.macs(view, structure, r) for r in rows], dtype=np.int64)
        ranks = np.array(rows, dtype=np.int64).reshape(len(rows), len(layout.bonds))
        return RankGrid(ranks, cost, macs[:, 0], macs[:, 1])

    def row(self, grid: RankGrid, who: str) -> int:
        """The only one."""
        return 0

    def errors(self, view: WeightView, weight: Tensor, metric: Metric) -> tuple[Floats, float]:
        """The error of a fit at each rank."""
        blocks = view.blocks(weight.detach().to(torch.float64))
        found = []
        for row in self.grid(view).ranks:
            fitted = self._fitted(view, blocks, tuple(int(r) for r in row))
            found.append(metric.felt(blocks - fitted.to_dense().reshape(blocks.shape)))
        return np.array(found), metric.felt(blocks)

    def trials(self, view: WeightView, weight: Tensor, metric: Metric) -> tuple[Floats, float, dict[int, Fitted]]:
        """As `errors`; the fit itself where it is the only one."""
        ranks = self.grid(view).ranks
        if len(ranks) > 1:
            return *self.errors(view, weight, metric), {}
        blocks = view.blocks(weight.detach().to(torch.float64))
        fitted = self.fit(view, weight, tuple(int(r) for r in ranks[0]), metric)
        wrong = metric.felt(blocks - fitted.to_dense().reshape(blocks.shape))
        return np.array([wrong]), metric.felt(blocks), {0: fitted}

    def fit(self, view: WeightView, weight: Tensor, rank: tuple[int, ...], metric: Metric) -> Fitted:
        """The format, fitted to the weight, and then to the weight as its inputs see it."""
        blocks = view.blocks(weight.detach().to(torch.float64))
        return fit_in_metric(self._fitted(view, blocks, rank), blocks, metric)

    def _fitted(self, view: WeightView, blocks: Tensor, rank: tuple[int, ...]) -> Fitted:
        structure = self.structure(view)
        parts, method = [], self._method(structure.layout, rank)
        for block in blocks:
            x = structure.plan.apply(block)
            limit = None if self.time_limit_s is None else self.time_limit_s / len(blocks)
            fit = decompose(x, structure.spec, rank=rank, method=method, time_limit_s=limit, rng=0)
            parts.append(fit.tensor)
        if view.groups == 1:
            inner = parts[0].format if isinstance(parts[0], Tensorized) else parts[0]
            return inner.tensorized(structure.over())
        topology, over = structure.layout.topology, structure.over()
        graph = Topology(tuple(("g", *labels) for labels in topology.inputs), ("g", *topology.output))
        tensors = [_stacked(nodes) for nodes in zip(*(part.tensors() for part in parts), strict=True)]
        return Network.from_equation(graph, tensors).tensorized(_grouped(over, view.groups))

    def _method(self, layout: Layout, rank: tuple[int, ...]) -> Any:
        """What `method="auto"` stands for; closed forms are not sketched."""
        if self.method != "auto":
            return self.method
        if layout.name == "tr" and len(rank) * max(rank) ** 6 > SWEEP:
            return RingSVD()
        if layout.name in ("lowrank", "kron"):
            return MatrixSVD(exact=True)
        return "auto"


def _stacked(nodes: tuple[Tensor, ...]) -> Tensor:
    """Nodes of several groups, filled up with zeros to the largest rank."""
    sizes = [max(n) for n in zip(*(node.shape for node in nodes), strict=True)]
    whole = nodes[0].new_zeros(len(nodes), *sizes)
    for k, node in enumerate(nodes):
        room = [x for n, m in zip(reversed(sizes), reversed(node.shape), strict=True) for x in (0, n - m)]
        whole[k] = torch.nn.functional.pad(node, room)
    return whole


def _grouped(plan: Tensorization, groups: int) -> Tensorization:
    """The same for each of several groups."""
    wide = Tensorization.start((groups, *plan.shape))
    for kind, to, _ in plan.moves:
        if kind == "permute":
            wide = wide.permute((0, *(k + 1 for k in to)))
        else:
            wide = {"pad": wide.pad, "reshape": wide.reshape}[kind]((groups, *to))
    return wide
