"""Structured matrices: low rank, block TT and Monarch, BLAST, Kronecker sums, TT matrices.

An array of another order is read as a matrix first (leading modes are rows), and sizes that do not factor are padded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil, log, prod
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from tnkit.errors import OptionError, ShapeError
from tnkit.formats.base import Format, as_format, require_axes, require_network
from tnkit.formats.chains import chain_topology, require_open_chain
from tnkit.formats.layout import FormatSpec, Layout, bond_caps, matricization, require_shape
from tnkit.network import Topology
from tnkit.registry import FORMATS
from tnkit.tensorize import Tensorization, factors_for

__all__ = [
    "BLAST",
    "BLASTSpec",
    "BlockTT",
    "BlockTTSpec",
    "KronSpec",
    "KroneckerSum",
    "LowRank",
    "LowRankSpec",
    "MonarchSpec",
    "TTMatrix",
    "TTMatrixSpec",
]

LOW_RANK = Topology.parse("o r, r i -> o i")
BLOCK_TT = Topology.parse("j l k r, k j r i -> l j k i")
BLAST_FORM = Topology.parse("i a r, i j r, j b r -> i a j b")
KRONECKER = Topology.parse("r a p, r b q -> a b p q")


@as_format
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LowRank(Format):
    """A matrix of low rank, `or,ri->oi`.

    Attributes:
        left: (o, r).
        right: (r, i).

    Example:
        >>> import torch
        >>> LowRank.from_parts(torch.ones(4, 1), torch.ones(1, 5)).shape
        (4, 5)
    """

    left: Tensor
    right: Tensor
    name: ClassVar[str] = "lowrank"

    @classmethod
    def from_parts(cls, left: Tensor, right: Tensor) -> LowRank:
        """A checked low-rank matrix.

        Raises:
            ShapeError: the factors do not fit.
        """
        return cls.from_tensors((left, right))

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], **static: Any) -> LowRank:
        """See `from_parts`."""
        return _checked(cls, tensors, LOW_RANK)

    def topology(self) -> Topology:
        """Two nodes and a bond."""
        return LOW_RANK

    def bonds(self) -> tuple[str, ...]:
        """The rank r."""
        return ("r",)


M = TypeVar("M", bound=Format)


def _checked(cls: Callable[..., M], tensors: Sequence[Tensor], topology: Topology) -> M:
    name = getattr(cls, "__name__", "matrix")
    if len(tensors) != len(topology.parameters):
        raise ShapeError(f"{name} has {len(topology.parameters)} tensors; {len(tensors)} were given.")
    pairs = zip(tensors, topology.inputs, strict=True)
    parts = [require_axes(t, len(labels), f"{name} part {k}") for k, (t, labels) in enumerate(pairs)]
    value = cls(*parts)
    require_network(value)
    return value


@as_format
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BlockTT(Format):
    """Block tensor train of two cores, `jlkr,kjri->ljki` (Qiu et al. 2024, arXiv:2406.06248); rank 1 is Monarch.

    The matrix has rows (l, j) and columns (k, i); its block (j, k), of size l × i, has rank r.

    Attributes:
        left: (j, l, k, r).
        right: (k, j, r, i).
    """

    left: Tensor
    right: Tensor
    name: ClassVar[str] = "btt"

    @classmethod
    def from_parts(cls, left: Tensor, right: Tensor) -> BlockTT:
        """A checked block TT.

        Raises:
            ShapeError: the factors do not fit.
        """
        return cls.from_tensors((left, right))

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], **static: Any) -> BlockTT:
        """See `from_parts`."""
        return _checked(cls, tensors, BLOCK_TT)

    def topology(self) -> Topology:
        """Two nodes that share a bond and the block index (j, k)."""
        return BLOCK_TT

    def bonds(self) -> tuple[str, ...]:
        """The rank r of each block."""
        return ("r",)


@as_format
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BLAST(Format):
    """Blocks that share factors, `iar,ijr,jbr->iajb`: W_ij = U_i diag(s_ij) V_jᵀ (Lee et al. 2024, arXiv:2410.21262).

    Attributes:
        left: U, (i, a, r).
        coupling: s, (i, j, r).
        right: V, (j, b, r).
    """

    left: Tensor
    coupling: Tensor
    right: Tensor
    name: ClassVar[str] = "blast"

    @classmethod
    def from_parts(cls, left: Tensor, coupling: Tensor, right: Tensor) -> BLAST:
        """A checked BLAST matrix.

        Raises:
            ShapeError: the factors do not fit.
        """
        return cls.from_tensors((left, coupling, right))

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], **static: Any) -> BLAST:
        """See `from_parts`."""
        return _checked(cls, tensors, BLAST_FORM)

    def topology(self) -> Topology:
        """Three nodes with a hyperedge r."""
        return BLAST_FORM

    def bonds(self) -> tuple[str, ...]:
        """The rank r."""
        return ("r",)


@as_format
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class KroneckerSum(Format):
    """A sum of Kronecker products, `rap,rbq->abpq` (Van Loan & Pitsianis 1993, doi:10.1007/978-94-015-8196-7_17).

    Attributes:
        left: (r, a, p).
        right: (r, b, q); the matrix has rows (a, b) and columns (p, q).
    """

    left: Tensor
    right: Tensor
    name: ClassVar[str] = "kron"

    @classmethod
    def from_parts(cls, left: Tensor, right: Tensor) -> KroneckerSum:
        """A checked Kronecker sum.

        Raises:
            ShapeError: the factors do not fit.
        """
        return cls.from_tensors((left, right))

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], **static: Any) -> KroneckerSum:
        """See `from_parts`."""
        return _checked(cls, tensors, KRONECKER)

    def topology(self) -> Topology:
        """Two nodes and a bond."""
        return KRONECKER

    def bonds(self) -> tuple[str, ...]:
        """The number of terms r."""
        return ("r",)


@lru_cache(maxsize=128)
def ttm_topology(rows: int, columns: int, order: str) -> Topology:
    """Interleaved: core k carries (r_k, m_k, n_k, r_{k+1}). Split: a chain of row modes, then column modes."""
    output = tuple(f"m{k}" for k in range(rows)) + tuple(f"n{k}" for k in range(columns))
    if order == "split":
        chain = chain_topology(rows + columns)
        return chain.relabel({f"i{k}": label for k, label in enumerate(output)})
    return Topology(tuple((f"r{k}", f"m{k}", f"n{k}", f"r{k + 1}") for k in range(rows)), output)


@as_format
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TTMatrix(Format):
    """TT matrix (matrix product operator), `mnb,bpq->mpnq` (Oseledets 2010, doi:10.1137/090757861).

    Attributes:
        cores: interleaved: (r_k, m_k, n_k, r_{k+1}); split: three-way cores of all row modes, then of all column modes.
        row_modes: how many of the modes are rows.
        order: "interleaved" or "split".

    The shape is (m_0 … , n_0 …): rows, then columns.
    """

    cores: tuple[Tensor, ...]
    row_modes: int = field(metadata={"static": True})
    order: str = field(default="interleaved", metadata={"static": True})
    name: ClassVar[str] = "ttm"

    @classmethod
    def from_cores(
        cls, cores: Sequence[Tensor], *, row_modes: int | None = None, order: str = "interleaved"
    ) -> TTMatrix:
        """A checked TT matrix.

        Args:
            cores: see the class.
            row_modes: needed for the split order only.
            order: "interleaved" or "split".

        Raises:
            ShapeError: cores that do not fit.
        """
        return cls.from_tensors(cores, row_modes=len(cores) if row_modes is None else row_modes, order=order)

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], **static: Any) -> TTMatrix:
        """See `from_cores`."""
        order = static.get("order", "interleaved")
        if order not in ("interleaved", "split"):
            raise OptionError(f"TTMatrix order={order!r} is unknown. Use 'interleaved' or 'split'.")
        row_modes = int(static.get("row_modes", len(tensors)))
        if order == "interleaved" and row_modes != len(tensors):
            raise ShapeError(f"An interleaved TTMatrix of {len(tensors)} cores has as many row modes, not {row_modes}.")
        if not 0 <= row_modes <= len(tensors):
            raise ShapeError(f"A TTMatrix of {len(tensors)} cores cannot have {row_modes} row modes.")
        axes = 4 if order == "interleaved" else 3
        value = cls(tuple(require_axes(t, axes, f"TTMatrix core {k}") for k, t in enumerate(tensors)), row_modes, order)
        require_open_chain(value, value.cores)
        return value

    def topology(self) -> Topology:
        """A chain."""
        return ttm_topology(self.row_modes, self.column_modes, self.order)

    @property
    def column_modes(self) -> int:
        """How many of the modes are columns."""
        return self.row_modes if self.order == "interleaved" else len(self.cores) - self.row_modes

    def bonds(self) -> tuple[str, ...]:
        """The bonds between neighbours."""
        return tuple(f"r{k}" for k in range(1, len(self.cores)))


@dataclass(frozen=True, slots=True)
class LowRankSpec(FormatSpec):
    """Low rank of an array read as a matrix.

    Attributes:
        row_modes: how many leading modes are rows, or which modes; by default the most nearly square split.
    """

    row_modes: int | tuple[int, ...] | None = None
    name: ClassVar[str] = "lowrank"

    def layout(self, shape: Sequence[int]) -> Layout:
        """One bond."""
        n = require_shape(shape, name="A low-rank matrix")
        plan = matricization(n, self.row_modes)
        m, k = plan.out_shape
        cap = (min(m, k),)
        return Layout(
            self.name, LowRank, n, LOW_RANK, {"o": m, "i": k}, ("r",), cap, cap, tensorization=_unless_identity(plan)
        )


def _unless_identity(plan: Tensorization) -> Tensorization | None:
    return None if plan.is_identity else plan


def _blocked(
    n: tuple[int, ...], rows: Sequence[int], columns: Sequence[int], row_modes: int | tuple[int, ...] | None, name: str
) -> Tensorization | None:
    """From an array to (row factors…, column factors…), by way of a matrix; padded where the factors are larger."""
    target = (*rows, *columns)
    if n == target:
        return None
    plan = matricization(n, row_modes)
    if prod(rows) < plan.out_shape[0] or prod(columns) < plan.out_shape[1]:
        raise ShapeError(
            f"{name}: factors {tuple(rows)} x {tuple(columns)} do not cover a matrix of {plan.out_shape[0]} x "
            f"{plan.out_shape[1]}. Give factors whose products are at least its sides."
        )
    return _unless_identity(plan.pad((prod(rows), prod(columns))).reshape(target))


def _two_factors(n: int, outer: int | None) -> tuple[int, int]:
    """`n` (or a little more) as outer × inner; balanced where `outer` is not given."""
    if outer is None:
        inner, outer = factors_for(n, 2)
        return outer, inner
    if outer < 1:
        raise OptionError(f"A number of blocks must be 1 or more, not {outer}.")
    return outer, ceil(n / outer)


@dataclass(frozen=True, slots=True)
class BlockTTSpec(FormatSpec):
    """Block TT of an array read as a matrix.

    Attributes:
        blocks: (j, k): rows are (l, j) and columns (k, i), so j·k blocks of size l × i; by default as square as
            the sizes allow.
        row_modes: which modes are rows (see `LowRankSpec`).
    """

    blocks: tuple[int, int] | None = None
    row_modes: int | tuple[int, ...] | None = None
    name: ClassVar[str] = "btt"

    def layout(self, shape: Sequence[int]) -> Layout:
        """One bond, at most the smaller side of a block."""
        n = require_shape(shape, name="A block TT matrix")
        if len(n) == 4 and self.blocks is None and self.row_modes is None:
            (el, j), (k, i) = n[:2], n[2:]
        else:
            m, width = matricization(n, self.row_modes).out_shape
            j, el = _two_factors(m, None if self.blocks is None else self.blocks[0])
            k, i = _two_factors(width, None if self.blocks is None else self.blocks[1])
        plan = _blocked(n, (el, j), (k, i), self.row_modes, "Block TT")
        cap = (min(el, i),)
        sizes = {"l": el, "j": j, "k": k, "i": i}
        return Layout(self.name, BlockTT, n, BLOCK_TT, sizes, ("r",), cap, cap, tensorization=plan)


@dataclass(frozen=True, slots=True)
class MonarchSpec(FormatSpec):
    """Monarch matrices (Dao et al. 2022, arXiv:2204.00595): block TT of rank 1.

    Attributes:
        blocks: as in `BlockTTSpec`.
        row_modes: as there.
    """

    blocks: tuple[int, int] | None = None
    row_modes: int | tuple[int, ...] | None = None
    name: ClassVar[str] = "monarch"

    def layout(self, shape: Sequence[int]) -> Layout:
        """One bond of rank 1; exact only where a block has a side of 1."""
        full = BlockTTSpec(self.blocks, self.row_modes).layout(shape)
        exact = (1,) if full.caps == (1,) else None
        return replace(full, name=self.name, caps=(1,), max_ranks=exact)


@dataclass(frozen=True, slots=True)
class BLASTSpec(FormatSpec):
    """BLAST of an array read as a matrix.

    Attributes:
        blocks: (rows, columns): how many blocks each side is cut into; more than a side has entries is cut down.
        row_modes: which modes are rows (see `LowRankSpec`).
    """

    blocks: tuple[int, int] = (4, 4)
    row_modes: int | tuple[int, ...] | None = None
    name: ClassVar[str] = "blast"

    def layout(self, shape: Sequence[int]) -> Layout:
        """One bond; at the rank of the whole matrix it is a low-rank matrix, so the smaller side is exact."""
        n = require_shape(shape, name="A BLAST matrix")
        m, width = matricization(n, self.row_modes).out_shape
        i, a = _two_factors(m, min(self.blocks[0], m))
        j, b = _two_factors(width, min(self.blocks[1], width))
        plan = _blocked(n, (i, a), (j, b), self.row_modes, "BLAST")
        cap = (min(m, width),)
        sizes = {"i": i, "a": a, "j": j, "b": b}
        return Layout(self.name, BLAST, n, BLAST_FORM, sizes, ("r",), cap, cap, tensorization=plan)


@dataclass(frozen=True, slots=True)
class KronSpec(FormatSpec):
    """A sum of Kronecker products of an array read as a matrix.

    Attributes:
        left: (a, p), the shape of the left factors; by default as square as the sizes allow.
        row_modes: which modes are rows (see `LowRankSpec`).
    """

    left: tuple[int, int] | None = None
    row_modes: int | tuple[int, ...] | None = None
    name: ClassVar[str] = "kron"

    def layout(self, shape: Sequence[int]) -> Layout:
        """One bond: the number of terms."""
        n = require_shape(shape, name="A Kronecker sum")
        if len(n) == 4 and self.left is None and self.row_modes is None:
            (a, b), (p, q) = n[:2], n[2:]
        else:
            m, width = matricization(n, self.row_modes).out_shape
            a, b = _two_factors(m, None if self.left is None else self.left[0])
            p, q = _two_factors(width, None if self.left is None else self.left[1])
        plan = _blocked(n, (a, b), (p, q), self.row_modes, "Kronecker sum")
        cap = (min(a * p, b * q),)
        sizes = {"a": a, "b": b, "p": p, "q": q}
        return Layout(self.name, KroneckerSum, n, KRONECKER, sizes, ("r",), cap, cap, tensorization=plan)


@dataclass(frozen=True, slots=True)
class TTMatrixSpec(FormatSpec):
    """TT matrix of an array read as a matrix.

    Attributes:
        rows: factors of the number of rows; by default near-equal ones, padded where the size does not factor.
        columns: factors of the number of columns; as many as of rows in the interleaved order.
        order: "interleaved" or "split".
        row_modes: which modes are rows (see `LowRankSpec`).
    """

    rows: tuple[int, ...] | None = None
    columns: tuple[int, ...] | None = None
    order: str = "interleaved"
    row_modes: int | tuple[int, ...] | None = None
    name: ClassVar[str] = "ttm"

    def layout(self, shape: Sequence[int]) -> Layout:
        """Bonds between neighbours; exact at the smaller side of each cut."""
        n = require_shape(shape, name="A TT matrix")
        rows, columns = self._factors(n)
        if self.order == "interleaved" and len(rows) != len(columns):
            raise OptionError(
                f"TTMatrixSpec rows={rows} and columns={columns} must be equally many; or use order='split'."
            )
        plan = _blocked(n, rows, columns, self.row_modes, "TT matrix")
        topology = ttm_topology(len(rows), len(columns), self.order)
        chain = len(topology.inputs)
        sizes = {f"m{k}": f for k, f in enumerate(rows)} | {f"n{k}": f for k, f in enumerate(columns)}
        sizes |= {"r0": 1, f"r{chain}": 1}
        bonds = tuple(f"r{k}" for k in range(1, chain))
        caps = bond_caps(topology, sizes, bonds)
        static = {"row_modes": len(rows), "order": self.order}
        return Layout(self.name, TTMatrix, n, topology, sizes, bonds, caps, caps, static, plan, closing="ones")

    def _factors(self, n: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self.order not in ("interleaved", "split"):
            raise OptionError(f"TTMatrixSpec(order={self.order!r}) is unknown. Use 'interleaved' or 'split'.")
        given = self.rows is not None or self.columns is not None
        if not given and self.row_modes is None and len(n) >= 4 and len(n) % 2 == 0:
            half = len(n) // 2
            return n[:half], n[half:]
        m, width = matricization(n, self.row_modes).out_shape
        parts = len(self.rows or self.columns or ()) or max(1, round(log(max(m, width, 2)) / log(10)))
        rows = self.rows or factors_for(m, parts)
        return tuple(rows), tuple(self.columns or reversed(factors_for(width, parts)))


for _spec in (LowRankSpec(), TTMatrixSpec(), BlockTTSpec(), MonarchSpec(), BLASTSpec(), KronSpec()):
    FORMATS.register(_spec.name, _spec)
