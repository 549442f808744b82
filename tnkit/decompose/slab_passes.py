"""An array that is read in slabs, reduced to a small one in memory by a few passes over it.

Each pass but the last adds up the Gram matrix (where eps is below what that resolves: the triangle of a QR) of the
blocks of modes that stand at the leaves of what is left of the tree, the cheapest first, projected on the bases that
are known already. Its leading eigenvectors are the block's basis; how many are kept is the rule that decompositions in
memory use for their first, rough cuts. As soon as what is left fits the memory, the last pass projects the array on
all bases. All of it are orthogonal projections: what is lost is ‖x‖² − ‖y‖².

References: Vannieuwenhoven, Vandebril & Meerbergen 2012, doi:10.1137/110836067, for sequential truncation; Demmel,
Grigori, Hoemmen & Langou, doi:10.1137/080731992, for QR in pieces; Austin, Ballard & Kolda 2016, arXiv:1510.06689, for
Gram matrices of unfoldings that are added up by parts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import isfinite, isqrt, prod

import torch
from torch import Tensor

from tnkit.arrays import machine_eps
from tnkit.decompose.bases import Labelled, Step, grouped, identity
from tnkit.decompose.rough import rank_above_noise
from tnkit.errors import DataError, MemoryLimitError
from tnkit.formats import Layout
from tnkit.linalg import energy, gram, tails
from tnkit.linalg.cut import gram_noise2, rounding2
from tnkit.linalg.products import wide_dtype
from tnkit.linalg.split_svd import safe_svd
from tnkit.linalg.tsqr import triangle
from tnkit.sources.slabs import Slabs

__all__ = ["Memory", "Reduced", "Wanted", "reduce_slabs"]

_FINE = 0.02  # share of the error budget that may be spent where that is cheap
_JOINT = 160  # columns up to which another Gram matrix costs less than another reading
_THICK = 48  # columns from which a block of a chain is worth a pass


@dataclass(frozen=True, slots=True)
class Memory:
    """How a limit is shared out.

    Attributes:
        limit: bytes; None for no limit.
        itemsize: of an entry.
    """

    limit: int | None
    itemsize: int

    @property
    def box(self) -> int:
        """Entries that are read at a time; a projected and a turned copy stand beside them."""
        return 2**62 if self.limit is None else max(1, self.limit // (10 * self.itemsize))

    @property
    def reduced(self) -> int:
        """Entries of what is left, that all later steps work on."""
        return 2**62 if self.limit is None else max(1, self.limit // (7 * self.itemsize))

    @property
    def at_most(self) -> int:
        """The same, where no further reading makes it smaller."""
        return 2**62 if self.limit is None else max(1, self.limit // (3 * self.itemsize))

    @property
    def columns(self) -> int:
        """Of a Gram matrix or a triangle, with room for its eigenvectors."""
        return 2**31 if self.limit is None else isqrt(self.limit // (16 * max(8, self.itemsize)))

    def needed(self, box: int, columns: int) -> int:
        """The limit that would admit such boxes and such a Gram matrix."""
        return max(10 * self.itemsize * box, 16 * max(8, self.itemsize) * columns**2)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the passes aim at.

    Attributes:
        eps: relative error of the whole decomposition; None where only ranks or a size are asked for.
        caps: the largest useful rank by bond.
        keep: nodes that stay to the end.
        thick: columns below which a block is joined with its neighbour.
    """

    eps: float | None
    caps: dict[str, int]
    keep: Collection[int] = ()
    thick: int = _THICK


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """What is left.

    Attributes:
        y: in memory.
        steps: the bases, leaves first.
        source: what was read: the array, times a factor where its squares would have left the range of the dtype.
        norm2: ‖x‖², of `source`.
        lost2: ‖x‖² − ‖y‖², or a bound of it.
        exact: whether it is no bound.
    """

    y: Labelled
    steps: tuple[Step, ...]
    source: Slabs
    norm2: float
    lost2: float
    exact: bool


def reduce_slabs(source: Slabs, layout: Layout, wanted: Wanted) -> Reduced:
    """Read the array a few times; keep what matters of it in memory.

    Args:
        source: the array and the memory limit.
        layout: of the format, over a tree.
        wanted: what is asked.

    Returns:
        see `Reduced`; its `norm2` is 0 only for a zero array.

    Raises:
        MemoryLimitError: the limit is too small; the message says how much is needed.
        DataError: NaN or infinite values.

    Cost:
        2 N c flops and one reading for each Gram matrix of c columns, 2 N r and one reading for the projection.
    """
    try:
        return _Passes(source, layout, wanted).run()
    except _OutOfRangeError:
        largest = 0.0
        for where in source.boxes(Memory(source.memory_limit, source.dtype.itemsize).box):
            box = source.read(where)
            parts = torch.view_as_real(box) if box.is_complex() else box
            largest = max(largest, float(parts.abs().amax()))
        factor = 1.0 / largest if largest > 0 else 1.0
        return _Passes(source.scaled(factor), layout, wanted, scaled=True).run()


class _OutOfRangeError(Exception):
    """The square of the norm leaves the range of the dtype."""


class _Passes:
    """What is known so far, and the readings that add to it."""

    def __init__(self, source: Slabs, layout: Layout, wanted: Wanted, *, scaled: bool = False) -> None:
        self.source, self.layout, self.wanted, self.scaled = source, layout, wanted, scaled
        self.topology = layout.topology
        self.memory = Memory(source.memory_limit, source.dtype.itemsize)
        self.modes = self.topology.output
        self.labels = list(self.modes)  # of what is left
        self.sizes = {label: layout.sizes[label] for label in self.modes}  # of these, and of the bonds that are done
        self.steps: list[Step] = []
        self.cuts = max(1, len(layout.bonds))
        self.norm2: float | None = None
        self.lost2 = 0.0

    def run(self) -> Reduced:
        while self.left() > self.memory.reduced:
            self.join_thin()
            picks = self.picks()
            if not picks and self.left() <= self.memory.at_most:
                break
            if not picks:
                raise MemoryLimitError(self.too_small())
            for pick, found in zip(picks, self.gather(picks), strict=True):
                if not self.settle(pick, found):
                    break
        y = self.project()
        assert self.norm2 is not None
        difference = self.norm2 - energy(y.tensor)
        exact = self.lost2 == 0.0
        if not exact and difference >= 2000 * machine_eps(self.source.dtype) * self.norm2:
            self.lost2, exact = difference, True
        return Reduced(y, tuple(self.steps), self.source, self.norm2, self.lost2, exact)

    def left(self) -> int:
        """Entries of what is left."""
        return prod(self.sizes[label] for label in self.labels)

    # -- which blocks

    def leaves(self) -> list[tuple[int, str]]:
        """Nodes that are next: all but one of their neighbours are done. With the bond to that one."""
        done = {step.node for step in self.steps}
        left = [node for node in range(len(self.topology.inputs)) if node not in done]
        found = []
        for node in left:
            bonds = [
                label
                for label in self.topology.inputs[node]
                if label not in self.labels and any(k in left for k in self.topology.nodes_of(label) if k != node)
            ]
            if len(bonds) == 1 and node not in self.wanted.keep:
                found.append((node, bonds[0]))
        return found

    def below(self, node: int) -> tuple[str, ...]:
        return tuple(label for label in self.labels if label in self.topology.inputs[node])

    def columns(self, node: int) -> int:
        return prod(self.sizes[label] for label in self.below(node))

    def add(self, step: Step) -> None:
        at = min(self.labels.index(label) for label in step.below)
        self.labels = [label for label in self.labels if label not in step.below]
        self.labels.insert(at, step.bond)
        self.sizes[step.bond] = step.rank
        self.steps.append(step)

    def join_thin(self) -> None:
        """Leaves with few columns, or with no more than their rank may have, are kept whole: no reading for them."""
        while len(self.topology.inputs) - len(self.steps) > 2:
            thin = [leaf for leaf in self.leaves() if self.joins(*leaf)]
            if not thin:
                return
            node, bond = min(thin, key=lambda leaf: self.columns(leaf[0]))
            sizes = [self.sizes[label] for label in self.below(node)]
            like = torch.empty(0, dtype=self.source.dtype, device=self.source.device)
            self.add(Step(node, self.below(node), bond, identity(prod(sizes), like).reshape(*sizes, -1)))

    def joins(self, node: int, bond: str) -> bool:
        columns = self.columns(node)
        full = columns <= self.wanted.caps[bond] and self.wanted.eps is None
        if not full and columns >= self.wanted.thick:
            return False
        (parent,) = (k for k in self.topology.nodes_of(bond) if k != node)
        return columns * prod(self.sizes[label] for label in self.below(parent)) <= self.memory.columns

    def modes_below(self, node: int) -> set[int]:
        """The axes of the array that stand below a node."""
        nested = {step.bond: step for step in self.steps}
        waiting, found = list(self.below(node)), set()
        while waiting:
            label = waiting.pop()
            if label in nested:
                waiting += nested[label].below
            else:
                found.add(self.modes.index(label))
        return found

    def picks(self) -> list[tuple[int, str]]:
        """The blocks whose Gram matrices are added up in the next reading."""
        shape, whole = self.source.shape, set[int]()
        chosen: list[tuple[int, str]] = []
        leaves = sorted(self.leaves(), key=lambda leaf: self.columns(leaf[0]))
        for node, bond in leaves:
            together = whole | self.modes_below(node)
            box = prod(self.source.widths(self.memory.box, together))
            fits = self.columns(node) <= self.memory.columns and box <= self.memory.box and len(together) < len(shape)
            if fits and (not chosen or self.columns(node) <= _JOINT):
                chosen.append((node, bond))
                whole = together
        return chosen

    def too_small(self) -> str:
        needed = 3 * self.memory.itemsize * self.left()
        for node, _ in self.leaves():
            box = prod(self.source.widths(1, self.modes_below(node)))
            needed = min(needed, self.memory.needed(box, self.columns(node)))
        return (
            f"{self.layout.name} of an array of shape {self.source.shape} needs about {needed:,} bytes beside the "
            f"result, and memory_limit={self.memory.limit:,}. Allow that much, a larger eps, or smaller ranks."
        )

    # -- readings

    def read(self, work: Callable[[Labelled, dict[str, slice]], None], whole: Collection[int] = ()) -> None:
        """One reading: `work` gets every box with what it holds of the modes that are cut."""
        first, total = self.norm2 is None, 0.0
        for where in self.source.boxes(self.memory.box, whole):
            box = self.source.read(where)
            if first:
                total += self.checked_energy(box)
            cut = {
                label: part
                for label, part, n in zip(self.modes, where, self.source.shape, strict=True)
                if part.stop - part.start < n
            }
            work(Labelled(box, self.modes), cut)
        if first:
            low, high = (1e-24, 1e24) if self.source.dtype in (torch.float32, torch.complex64) else (1e-200, 1e200)
            if not (low <= total <= high) and not self.scaled:
                raise _OutOfRangeError
            self.norm2 = total

    def checked_energy(self, box: Tensor) -> float:
        found = energy(box)
        if not isfinite(found):
            bad = int((~torch.isfinite(box)).sum())
            if bad:
                raise DataError(
                    f"x of shape {self.source.shape} holds NaN or infinite values ({bad} of them in the first part of "
                    "it that has some). Replace them."
                )
            raise _OutOfRangeError
        return found

    def gather(self, picks: Sequence[tuple[int, str]]) -> list[_Sum]:
        """Add up what tells the bases of some blocks, in one reading."""
        whole = set[int]().union(*(self.modes_below(node) for node, _ in picks))
        sums = [self.new_sum(node) for node, _ in picks]

        def work(x: Labelled, cut: dict[str, slice]) -> None:
            for step in self.steps:
                if all(label in x.labels and label not in cut for label in step.below):
                    x = step.project(x)
            for (node, _), total in zip(picks, sums, strict=True):
                total.add(_unfolded(x, self.below(node)))

        self.read(work, whole)
        return sums

    def new_sum(self, node: int) -> _Sum:
        double = self.source.dtype in (torch.float64, torch.complex128)
        eps, noise = self.wanted.eps, gram_noise2(self.source.dtype, 1.0, precise=True)
        exact = double and (eps is None or _FINE * eps**2 / self.cuts < 100 * noise)
        precise = eps is None or eps**2 * _FINE / self.cuts < 1e-5
        kind = _TriangleSum if exact else _GramSum
        return kind(self.columns(node), self.source, precise=precise)

    def settle(self, pick: tuple[int, str], found: _Sum) -> bool:
        """Take a basis; False if what it discards would spoil the sums of the same reading."""
        node, bond = pick
        assert self.norm2 is not None
        s2, vectors, noise2 = found.eigen(self.norm2)
        tail, cap = tails(s2), min(self.wanted.caps[bond], len(s2))
        floor2 = (8 * machine_eps(self.source.dtype)) ** 2 * self.norm2
        left2 = floor2 if self.wanted.eps is None else self.wanted.eps**2 * self.norm2 - self.lost2
        fine = max(_FINE * left2, floor2) / self.cuts
        rank = min(cap, max(1, int((tail > max(fine - noise2, 0.0)).sum())))
        if self.wanted.eps is not None:
            rank = min(cap, rank_above_noise(tail, rank, len(s2), left2))
        sizes = [self.sizes[label] for label in self.below(node)]
        basis = vectors[:, :rank].to(self.source.dtype).reshape(*sizes, rank).contiguous()
        self.add(Step(node, self.below(node), bond, basis))
        self.lost2 += float(tail[rank])
        return float(tail[rank]) <= 2 * max(fine, noise2)

    def project(self) -> Labelled:
        """The last reading."""
        like = torch.empty(0, dtype=self.source.dtype, device=self.source.device)
        y = like.new_zeros([self.sizes[label] for label in self.labels])

        def work(x: Labelled, cut: dict[str, slice]) -> None:
            for step in self.steps:
                x = step.project(x, {label: part for label, part in cut.items() if label in step.below})
            y[tuple(cut.get(label, slice(None)) for label in self.labels)] += x.ordered(self.labels)

        self.read(work)
        return Labelled(y, tuple(self.labels))


def _unfolded(x: Labelled, below: Sequence[str]) -> Tensor:
    """The matrix (c, n) whose rows run over some labels; a view where they stand at an end."""
    a = grouped(x, below)[0]
    if a.shape[0] == 1:
        return a[0]
    if a.shape[2] == 1:
        return a[:, :, 0].mT
    return a.movedim(1, 0).reshape(a.shape[1], -1)


class _Sum(ABC):
    """What is added up over the columns of a matrix (c, n) that comes in parts."""

    @abstractmethod
    def add(self, a: Tensor) -> None:
        """Take some of its columns."""

    @abstractmethod
    def eigen(self, norm2: float) -> tuple[Tensor, Tensor, float]:
        """Squared singular values, descending, the left singular vectors, and up to what tails are true."""


class _GramSum(_Sum):
    """A aᴴ, in double precision."""

    def __init__(self, columns: int, source: Slabs, *, precise: bool) -> None:
        self.total = torch.zeros((columns, columns), dtype=wide_dtype(source.dtype), device=source.device)
        self.dtype, self.precise = source.dtype, precise

    def add(self, a: Tensor) -> None:
        self.total += gram(a, precise=self.precise)

    def eigen(self, norm2: float) -> tuple[Tensor, Tensor, float]:
        values, vectors = torch.linalg.eigh(self.total)
        return values.flip(0).clamp_min(0), vectors.flip(1), gram_noise2(self.dtype, norm2, precise=self.precise)


class _TriangleSum(_Sum):
    """R of the QR of aᴴ: rᴴ r = a aᴴ, where a Gram matrix would not resolve what is asked."""

    def __init__(self, columns: int, source: Slabs, *, precise: bool) -> None:
        self.total = torch.zeros((0, columns), dtype=source.dtype, device=source.device)

    def add(self, a: Tensor) -> None:
        columns = a.shape[0]
        for part in a.mH.split(max(columns, 512)):
            self.total = triangle(torch.cat([self.total, part]), block=2 * columns + 512)

    def eigen(self, norm2: float) -> tuple[Tensor, Tensor, float]:
        _, s, vh = safe_svd(self.total)
        noise2 = rounding2(self.total.dtype, self.total.shape[1], norm2)
        return s.to(torch.float64).square(), vh.mH, noise2
