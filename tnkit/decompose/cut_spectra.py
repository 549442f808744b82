"""The spectra of all cuts of an array: every set of its modes, or of factors of its modes, against the others.

What a chain, a tree or a Tucker tensor needs at a cut depends only on the set of modes on one side, not on their order.
So 2^(D−1) − 1 spectra know the ranks of every order and every merge of D modes. They are taken in the core of a Tucker
form, where that is smaller than the array; a mode that a cut goes through is put back to its full size first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tnkit.linalg import spectrum
from tnkit.tensorize import Tensorization, balanced_factors

__all__ = ["MOST_ATOMS", "Atoms", "CutSpectra", "grouped_modes", "split_modes"]

MOST_ATOMS = 8
_FLOPS = 3e10  # for all spectra together: about a second of one core
_COARSE = 1e-4  # share of the energy that may be lost from which single precision resolves the spectra


@dataclass(frozen=True, slots=True)
class Atoms:
    """The parts that are put in order: the modes of a shape, some of them split.

    Attributes:
        shape: of the array; where there are groups, of the array with neighbours merged.
        factors: of each mode, in row-major order; () for a mode of size 1.
        groups: the sizes of the user's modes in each mode of `shape`, where there are too many to order one by one.
    """

    shape: tuple[int, ...]
    factors: tuple[tuple[int, ...], ...]
    groups: tuple[tuple[int, ...], ...] | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of all atoms."""
        return tuple(n for part in self.factors for n in part)

    @property
    def owners(self) -> tuple[int, ...]:
        """The mode of each atom."""
        return tuple(k for k, part in enumerate(self.factors) for _ in part)

    def size(self, mask: int) -> int:
        """The product of the sizes of a set of atoms."""
        return prod(n for k, n in enumerate(self.sizes) if mask >> k & 1)

    def plan(self, blocks: Sequence[int], *, whole: bool = False) -> Tensorization:
        """From the array to one mode for each block, a set of atoms (a bit mask) that keep their order.

        Modes in groups move together and stay single, unless the blocks are asked for as wholes.
        """
        if self.groups is not None:
            order = [k for block in blocks for k in members(block)]
            start = Tensorization.start([n for group in self.groups for n in group]).reshape(self.shape).permute(order)
            sizes = [self.size(block) for block in blocks]
            return start.reshape(sizes if whole else [n for k in order for n in self.groups[k]])
        merged = [self.size(block) for block in blocks]
        runs: list[tuple[int, int]] = []  # (first, last) atom, of neighbours that stay together
        for block in blocks:
            for j, k in enumerate(members(block)):
                if j and runs[-1][1] == k - 1:
                    runs[-1] = (runs[-1][0], k)
                else:
                    runs.append((k, k))
        found = sorted(runs)
        parts = [prod(self.sizes[a : b + 1]) for a, b in found]
        order = [found.index(run) for run in runs]
        start = Tensorization.start(self.shape)
        if order == sorted(order):
            return start.reshape(merged)
        return start.reshape(parts).permute(order).reshape(merged)


def members(mask: int) -> list[int]:
    """The positions of the bits that are set."""
    return [k for k in range(mask.bit_length()) if mask >> k & 1]


def grouped_modes(shape: Sequence[int], *, most: int = MOST_ATOMS) -> Atoms:
    """At most so many groups of neighbouring modes, the smallest ones merged first; modes of size 1 join any."""
    groups = [[n] for n in shape]
    while len(groups) > most or (len(groups) > 1 and any(group == [1] for group in groups)):
        k = min(range(len(groups) - 1), key=lambda k: prod(groups[k]) * prod(groups[k + 1]))
        groups[k : k + 2] = [groups[k] + groups[k + 1]]
    sizes = tuple(prod(group) for group in groups)
    return Atoms(sizes, tuple((n,) for n in sizes), tuple(map(tuple, groups)))


def split_modes(shape: Sequence[int], ranks: Sequence[int], *, most: int = MOST_ATOMS) -> Atoms:
    """Which modes to split, for spectra within a second or so.

    Args:
        shape: of the array.
        ranks: of the Tucker core in which the spectra are taken.
        most: atoms.

    Returns:
        the largest atoms halved (as equally as their factors allow) while their number and the work admit it.
    """
    factors = [[n] if n > 1 else [] for n in shape]
    whole: set[tuple[int, int]] = set()
    while sum(map(len, factors)) < most:
        open_atoms = [(n, k, j) for k, part in enumerate(factors) for j, n in enumerate(part) if (k, n) not in whole]
        if not open_atoms:
            break
        n, k, j = max(open_atoms)
        first, second = balanced_factors(n, 2)
        tried = [list(part) for part in factors]
        tried[k][j : j + 1] = [first, second]
        if second == 1 or n < 8 or _work(tried, ranks) > _FLOPS:
            whole.add((k, n))
        else:
            factors = tried
    return Atoms(tuple(shape), tuple(tuple(part) for part in factors))


def _work(factors: Sequence[Sequence[int]], ranks: Sequence[int]) -> float:
    """Flops of all spectra: a Gram matrix of the smaller side and its eigenvalues."""
    atoms = [(k, n) for k, part in enumerate(factors) for n in part]
    total = 0.0
    for mask in range(1, 2 ** max(len(atoms) - 1, 0)):
        sides, place = [1, 1], 0
        for part, rank in zip(factors, ranks, strict=True):
            bits = [mask >> (place + j) & 1 for j in range(len(part))]
            place += len(part)
            if bits and len(set(bits)) == 1:
                sides[bits[0]] *= rank
            else:
                for bit, n in zip(bits, part, strict=True):
                    sides[bit] *= n
        small, large = sorted(sides)
        total += 2.0 * small**2 * large + 10.0 * small**3
    return total


class CutSpectra:
    """The tails of every cut, by the set of atoms on one side.

    Args:
        atoms: what is put in order.
        core: (R_0 …), the array in orthonormal bases of its modes, or the array itself.
        bases: (n_k, R_k) for each mode, or None where the core is the array.
        allowed2: the squared error that may be lost; what is far below it need not be exact.
    """

    def __init__(self, atoms: Atoms, core: Tensor, bases: Sequence[Tensor] | None, allowed2: float | None) -> None:
        self.atoms = atoms
        self.full = 2 ** len(atoms.sizes) - 1
        norm2 = float(torch.linalg.vector_norm(core)) ** 2
        coarse = allowed2 is not None and allowed2 >= _COARSE * norm2
        if coarse and core.dtype == torch.float64:
            core = core.to(torch.float32)
            bases = None if bases is None else [b.to(torch.float32) for b in bases]
        self.core, self.bases, self.norm2 = core, bases, norm2
        self.tail2 = None if allowed2 is None else 1e-3 * allowed2
        self._tails: dict[int, NDArray[np.float64]] = {}
        self._expanded: dict[tuple[int, ...], Tensor] = {}

    @property
    def complete(self) -> bool:
        """Whether the spectra of all cuts have been taken."""
        return bool(len(self._tails) >= self.full // 2)

    def energies(self, mask: int) -> NDArray[np.float64]:
        """The squared singular values of a cut, descending."""
        tails = self.tails(mask)
        return np.maximum(tails[:-1] - tails[1:], 0.0)

    def tails(self, mask: int) -> NDArray[np.float64]:
        """What is lost at each rank 0, 1, … of a cut."""
        if mask in (0, self.full):
            return np.array([self.norm2, 0.0])
        mask = min(mask, self.full ^ mask)
        if mask not in self._tails:
            s2 = spectrum(self._matrix(mask), tail2=self.tail2, norm2=self.norm2).s2.cpu().numpy()
            self._tails[mask] = np.append(np.maximum(s2, 0.0)[::-1].cumsum()[::-1], 0.0)
        return self._tails[mask]

    def ranks(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """The least rank at which each cut loses no more than a level: (levels, all sets)."""
        found = np.ones((len(levels), self.full + 1))
        for mask in range(1, (self.full + 1) // 2):
            tails = self.tails(mask)
            rank = np.searchsorted(-tails, -levels, side="left").clip(1, len(tails) - 1)
            found[:, mask] = found[:, self.full ^ mask] = rank
        return found

    def lost(self, rank: int) -> NDArray[np.float64]:
        """What every cut loses at one rank, by its set."""
        found = np.zeros(self.full + 1)
        for mask in range(1, (self.full + 1) // 2):
            tails = self.tails(mask)
            found[mask] = found[self.full ^ mask] = tails[min(rank, len(tails) - 1)]
        return found

    def _matrix(self, mask: int) -> Tensor:
        """The unfolding of a cut: atoms of the set as rows."""
        owners = self.atoms.owners
        sides = [{mask >> j & 1 for j, owner in enumerate(owners) if owner == k} for k in range(len(self.atoms.shape))]
        cut = tuple(k for k, side in enumerate(sides) if len(side) == 2)
        x = self._with_full(cut)
        rows: list[int] = []
        columns: list[int] = []
        place = 0
        for k, side in enumerate(sides):
            if k in cut:
                for j in (j for j, owner in enumerate(owners) if owner == k):
                    (rows if mask >> j & 1 else columns).append(place)
                    place += 1
            else:
                (rows if side == {1} else columns).append(place)
                place += 1
        return x.permute(*rows, *columns).reshape(prod(x.shape[k] for k in rows), -1)

    def _with_full(self, cut: tuple[int, ...]) -> Tensor:
        """The core with some modes at full size, each as its atoms."""
        if cut not in self._expanded:
            x = self.core
            for k in cut:
                if self.bases is not None:
                    x = torch.tensordot(x, self.bases[k], dims=([k], [1])).movedim(-1, k)
            shape = [n for k, n in enumerate(x.shape) for n in (self.atoms.factors[k] if k in cut else (n,))]
            self._expanded = {cut: x.reshape(shape)}
        return self._expanded[cut]
