"""Nodes that hold no parameters: fixed matrices that a network multiplies by.

Example:
    >>> import torch
    >>> from tnkit.network import DFT
    >>> DFT(4).tensor(torch.float64, torch.device("cpu")).shape
    torch.Size([4, 4])
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = ["DFT", "Constant", "Part", "constant_of", "select"]

_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


class Constant(ABC):
    """A fixed tensor, made when it is needed in the dtype and on the device of the others."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @abstractmethod
    def key(self) -> tuple[Any, ...]:
        """Its kind and what it is made of, in nested tuples of plain values (see `constant_of`)."""

    @abstractmethod
    def tensor(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Its values; complex where the constant is complex, whatever `dtype` says of the real parameters."""


@dataclass(frozen=True, slots=True)
class DFT(Constant):
    """The matrix of the discrete Fourier transform, F[s, t] = exp(-2πi st/n), or of its inverse.

    Attributes:
        n: its size.
        inverse: whether it is conj(F)/n.
    """

    n: int
    inverse: bool = False
    kind: ClassVar[str] = "dft"

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, n)."""
        return (self.n, self.n)

    def key(self) -> tuple[Any, ...]:
        """Kind, size, direction."""
        return (self.kind, index(self.n), self.inverse)

    def tensor(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The matrix, complex."""
        steps = torch.arange(self.n, device=device)
        turns = (steps[:, None] * steps[None, :] % self.n).to(torch.float64) * (2.0 * math.pi / self.n)
        if not self.inverse:
            turns = -turns
        scale = 1.0 / self.n if self.inverse else 1.0
        matrix = torch.complex(torch.cos(turns) * scale, torch.sin(turns) * scale)
        return matrix.to(_COMPLEX.get(dtype, dtype))


@dataclass(frozen=True, slots=True)
class Part(Constant):
    """Some rows and columns of another constant.

    Attributes:
        whole: the other one.
        picks: for each of its axes one position (the axis goes), or those that are kept.
    """

    whole: Constant
    picks: tuple[int | tuple[int, ...], ...]
    kind: ClassVar[str] = "part"

    @property
    def shape(self) -> tuple[int, ...]:
        """What is left of each axis."""
        return tuple(len(pick) for pick in self.picks if not isinstance(pick, int))

    def key(self) -> tuple[Any, ...]:
        """Kind, the whole's key, picks."""
        return (self.kind, self.whole.key(), self.picks)

    def tensor(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The entries that are kept."""
        return select(self.whole.tensor(dtype, device), self.picks)


def constant_of(key: tuple[Any, ...] | None) -> Constant | None:
    """The constant of a key, or None.

    Example:
        >>> constant_of(DFT(4).key())
        DFT(n=4, inverse=False)
    """
    if key is None:
        return None
    if key[0] == DFT.kind:
        return DFT(key[1], key[2])
    whole = constant_of(key[1])
    if key[0] != Part.kind or whole is None:
        raise ValueError(f"{key!r} is the key of no constant.")
    return Part(whole, key[2])


def select(t: Tensor, picks: Sequence[int | Sequence[int]]) -> Tensor:
    """Positions along each axis: an integer takes the axis away, a sequence keeps those (all of them: a view)."""
    for axis in reversed(range(t.ndim)):
        pick = picks[axis]
        if isinstance(pick, int):
            t = t.select(axis, pick)
        elif list(pick) != list(range(t.shape[axis])):
            t = t.index_select(axis, torch.tensor(list(pick), device=t.device))
    return t
