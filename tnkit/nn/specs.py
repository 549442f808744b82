"""Layer specifications: what a layer is to become. Frozen values; the ranks may be left to a budget.

A specification knows which ranks there are and what each costs (`grid`), what each loses (`errors`), and how to make
the format at one of them (`fit`). It knows nothing of modules: recipes (`tnkit.nn.layers`) join it to a layer type.

Example:
    >>> from tnkit.nn.specs import LowRankLayer, Tucker2
    >>> LowRankLayer(rank=8), Tucker2(keep=0.5).keep
    (LowRankLayer(rank=8), 0.5)
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tnkit.errors import OptionError, RankError
from tnkit.formats import Format, LowRank, Network
from tnkit.nn.conv_tucker import ConvTucker
from tnkit.nn.stats import InputStats, Metric
from tnkit.nn.views import WeightView
from tnkit.nn.weighted import RowMetric, WeightedBasis, weighted_basis
from tnkit.registry import Registry

__all__ = ["LAYER_SPECS", "ChannelSVD", "Execution", "LayerSpec", "LowRankLayer", "RankGrid", "Tucker2"]

Execution: TypeAlias = Literal["factored", "materialized", "auto"]
#: Share of the plain energy that counts beside the metric, so that ranks are ordered also where the metric is singular.
UNSEEN = 1e-9
EXECUTIONS = ("factored", "materialized", "auto")
Ints: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"

#: Specifications by name.
LAYER_SPECS: Registry[type[LayerSpec]] = Registry("layer specification")


@dataclass(frozen=True, slots=True, eq=False)
class RankGrid:
    """Every rank that a weight admits, and what it costs.

    Attributes:
        ranks: (K, p) ranks, one row for each choice.
        n_params: (K,) parameters of the factors, all groups together.
        in_macs: (K,) multiplications for each position of the input.
        out_macs: (K,) multiplications for each position of the output.
    """

    ranks: Ints
    n_params: Ints
    in_macs: Ints
    out_macs: Ints

    def index(self, rank: tuple[int, ...], who: str = "this layer") -> int:
        """The row of a rank.

        Raises:
            RankError: there is no such rank; the message gives the largest.
        """
        comparable = len(rank) == self.ranks.shape[1]
        found = np.flatnonzero((self.ranks == np.asarray(rank)).all(axis=1)) if comparable else np.empty(0, dtype=int)
        if len(found) == 0:
            top = tuple(int(r) for r in self.ranks.max(axis=0))
            raise RankError(
                f"rank {rank} is not admissible for {who}. Use {len(top)} rank(s) of 1 … {top}, each at most the "
                "product of what it is joined to, or give keep= or max_error= instead."
            )
        return int(found[0])


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LayerSpec(abc.ABC):
    """Base of all layer specifications.

    Attributes:
        keep: share of the layer's weight parameters that may be used, in (0, 1]; None leaves it to the budget.
        max_error: largest relative error, in the metric of the inputs where there is one.
        whiten: use the inputs' Gram matrix when there is one.
        execution: how the module computes; "auto" goes by measured time.
    """

    name: ClassVar[str]
    n_ranks: ClassVar[int]

    keep: float | None = None
    max_error: float | None = None
    whiten: bool = True
    execution: Execution = "auto"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            OptionError: an option out of its range, or rank together with keep or max_error.
            RankError: a rank that is not a positive int.
        """
        who = type(self).__name__
        if self.keep is not None and not 0.0 < self.keep <= 1.0:
            raise OptionError(
                f"{who}: keep={self.keep} is not in (0, 1]. It is the share of weight parameters that stays."
            )
        if self.max_error is not None and not 0.0 <= self.max_error < 1.0:
            raise OptionError(f"{who}: max_error={self.max_error} is not in [0, 1). It is a relative error.")
        if self.execution not in EXECUTIONS:
            raise OptionError(f"{who}: execution={self.execution!r}. Use one of {', '.join(EXECUTIONS)}.")
        rank = self.asked_rank
        if rank is None:
            return
        if any(not isinstance(r, int) or isinstance(r, bool) or r < 1 for r in rank) or len(rank) != self.n_ranks:
            raise RankError(f"{who}: rank={rank} is not {self.n_ranks} positive int(s). Use 1 or more.")
        if self.keep is not None or self.max_error is not None:
            raise OptionError(f"{who}: give rank, or keep and max_error, not both; rank={rank} fixes them.")

    @property
    @abc.abstractmethod
    def asked_rank(self) -> tuple[int, ...] | None:
        """The rank that was given, as a tuple."""

    @abc.abstractmethod
    def grid(self, view: WeightView) -> RankGrid:
        """Every admissible rank and its cost; the shape alone decides."""

    @abc.abstractmethod
    def errors(self, view: WeightView, weight: Tensor, metric: Metric) -> tuple[Floats, float]:
        """(K,) squared error of each rank of the grid, and the energy they are relative to, in the metric."""

    @abc.abstractmethod
    def fit(self, view: WeightView, weight: Tensor, rank: tuple[int, ...], metric: Metric) -> Format:
        """The format at `rank`; float64."""

    def inputs(self, stats: InputStats | None) -> InputStats | None:
        """The moments of the inputs that the fit uses, of those that were seen."""
        return stats if self.whiten else None

    def is_free(self) -> bool:
        """Whether the rank is left to a budget."""
        return self.asked_rank is None and self.keep is None and self.max_error is None

    def __repr__(self) -> str:
        """The options that differ from the defaults."""
        given = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        order = sorted(given, key=lambda text: not text.startswith("rank"))
        return f"{type(self).__name__}({', '.join(order)})"


@dataclass(frozen=True, slots=True, repr=False)
class _MatrixSpec(LayerSpec):
    """Low rank of the weight as a matrix (m, n), group by group.

    Attributes:
        rank: of each group's matrix.
        pivoted: hold r(m + n − r) numbers instead of r(m + n): exact, smaller, one gather slower. None: the layer
            decides (pivoted, but for half types).
    """

    rank: int | None = None
    pivoted: bool | None = None

    n_ranks: ClassVar[int] = 1

    @property
    def asked_rank(self) -> tuple[int, ...] | None:
        """The rank as a tuple."""
        return None if self.rank is None else (self.rank,)

    def grid(self, view: WeightView) -> RankGrid:
        """Ranks 1 … min(m, n)."""
        m, n = view.shape
        r = np.arange(1, min(m, n) + 1, dtype=np.int64)
        cost = view.groups * (r * (m + n - r) if self.pivoted else r * (m + n))
        return RankGrid(r[:, None], cost, np.zeros_like(cost), cost)

    def errors(self, view: WeightView, weight: Tensor, metric: Metric) -> tuple[Floats, float]:
        """Σ of the dropped S_i², over all groups."""
        bases = self.bases(view, weight, metric)
        energy = torch.stack([basis.s.square() for basis in bases]).sum(0)
        plain = torch.stack([basis.plain_energy() for basis in bases]).sum(0)
        energy = energy + UNSEEN * plain * (
            energy.sum() / plain.sum().clamp_min(1e-300)
        )  # what calibration did not see
        tail = energy.flip(0).cumsum(0).flip(0)
        return np.append(tail[1:].cpu().numpy(), 0.0), float(tail[0])

    def fit(self, view: WeightView, weight: Tensor, rank: tuple[int, ...], metric: Metric) -> Format:
        """A LowRank, or for several groups the network "gor,gri->goi"."""
        factors = [basis.factors(rank[0]) for basis in self.bases(view, weight, metric)]
        if view.groups == 1:
            return LowRank(*factors[0])
        left, right = (torch.stack(parts) for parts in zip(*factors, strict=True))
        return Network.from_equation("gor,gri->goi", (left, right))

    def bases(self, view: WeightView, weight: Tensor, metric: Metric) -> list[WeightedBasis]:
        """The analysis of each group's matrix."""
        blocks = enumerate(view.blocks(weight))
        return [weighted_basis(block, metric.gram(k), metric.rows(k)) for k, block in blocks]


@dataclass(frozen=True, slots=True, repr=False)
class LowRankLayer(_MatrixSpec):
    """A linear layer as two factors: y = B(Ax) + b.

    Attributes:
        rank: of the weight; None leaves it to keep, max_error or the budget.
        pivoted: as in the class's r(m + n − r) form; None: pivoted, but for half types.
        centred: use the centred covariance and correct the bias (output-feature PCA); needs calibration with means.
        execution: "factored" by default: two small products have not been measured slower than making the weight.

    Example:
        >>> from tnkit.nn import LowRankLayer
        >>> LowRankLayer(keep=0.5, pivoted=False)
        LowRankLayer(keep=0.5, pivoted=False)
    """

    centred: bool = False
    execution: Execution = field(default="factored", kw_only=True)

    name: ClassVar[str] = "lowrank"

    def inputs(self, stats: InputStats | None) -> InputStats | None:
        """The moments of the inputs that the fit uses; centred ones if asked for."""
        if stats is None or not self.whiten:
            return None
        return stats.centred() if self.centred and stats.count else stats


@dataclass(frozen=True, slots=True, repr=False)
class ChannelSVD(_MatrixSpec):
    """A convolution as a smaller one to r channels and a 1×1 from them (the kernel as an o × i·Πk matrix).

    References:
        Zhang et al., Accelerating very deep convolutional networks (2015), arXiv 1505.06798.

    Example:
        >>> from tnkit.nn import ChannelSVD
        >>> ChannelSVD(rank=4)
        ChannelSVD(rank=4)
    """

    name: ClassVar[str] = "channel_svd"


@dataclass(frozen=True, slots=True, repr=False)
class Tucker2(LayerSpec):
    """A convolution as 1×1 (i → R_i), k×k (R_i → R_o) and 1×1 (R_o → o).

    Attributes:
        rank: (R_o, R_i); None leaves it to keep, max_error or the budget.

    References:
        Kim et al. (2016), arXiv 1511.06530.

    Example:
        >>> from tnkit.nn import Tucker2
        >>> Tucker2(rank=(8, 4))
        Tucker2(rank=(8, 4))
    """

    rank: tuple[int, int] | None = None

    name: ClassVar[str] = "tucker2"
    n_ranks: ClassVar[int] = 2

    @property
    def asked_rank(self) -> tuple[int, ...] | None:
        """The rank as it was given."""
        return None if self.rank is None else tuple(self.rank)

    def grid(self, view: WeightView) -> RankGrid:
        """All pairs with R_o <= R_i·Πk and R_i <= R_o·Πk."""
        o, i, k = view.shape
        r_out, r_in = (x.ravel() for x in np.meshgrid(np.arange(1, o + 1), np.arange(1, i + 1), indexing="ij"))
        fits = (r_out <= r_in * k) & (r_in <= r_out * k)
        r_out, r_in = r_out[fits].astype(np.int64), r_in[fits].astype(np.int64)
        first = view.groups * r_in * i
        rest = view.groups * (r_out * r_in * k + r_out * o)
        at_input = first if k > 1 else np.zeros_like(first)  # a 1×1 kernel has its stride on the first factor
        return RankGrid(np.stack([r_out, r_in], axis=1), first + rest, at_input, first + rest - at_input)

    def errors(self, view: WeightView, weight: Tensor, metric: Metric) -> tuple[Floats, float]:
        """The truncated HOSVD's error, from which HOOI only improves."""
        total, energy = None, 0.0
        for tucker, _ in self._analyses(view, weight, metric):
            error = tucker.errors()
            total = error if total is None else total + error
            energy += float(tucker.coords.square().sum())
        assert total is not None
        ranks = self.grid(view).ranks
        column = np.minimum(ranks[:, 1], total.shape[1]) - 1
        return total.cpu().numpy()[ranks[:, 0] - 1, column], energy

    def fit(self, view: WeightView, weight: Tensor, rank: tuple[int, ...], metric: Metric) -> Format:
        """The network "ack,oa,ci->oik" (core, output factor, input factor), with a label g where there are groups."""
        parts = []
        for tucker, rows in self._analyses(view, weight, metric):
            core, u, v = tucker.factors((rank[0], rank[1]))
            parts.append((core, rows.undo(u), v))
        if view.groups == 1:
            return Network.from_equation("ack,oa,ci->oik", parts[0])
        stacked = tuple(torch.stack(p) for p in zip(*parts, strict=True))
        return Network.from_equation("gack,goa,gci->goik", stacked)

    def _analyses(self, view: WeightView, weight: Tensor, metric: Metric) -> list[tuple[ConvTucker, RowMetric]]:
        found = []
        for k, block in enumerate(view.blocks(weight.detach().to(torch.float64))):
            rows = RowMetric.of(metric.rows(k), block)
            found.append((ConvTucker.of(rows.apply(block), metric.gram(k)), rows))
        return found


for _spec in (LowRankLayer, ChannelSVD, Tucker2):
    LAYER_SPECS.register(_spec.name, _spec)
