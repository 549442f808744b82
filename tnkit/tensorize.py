"""Tensorization: pad, reshape and permute steps, as a value with an exact inverse.

Example:
    >>> import torch
    >>> from tnkit.tensorize import Tensorization
    >>> plan = Tensorization.start((6, 7)).pad((6, 8)).reshape((2, 3, 2, 4)).permute((0, 2, 1, 3))
    >>> x = torch.arange(42.0).reshape(6, 7)
    >>> plan.apply(x).shape, bool((plan.invert(plan.apply(x)) == x).all())
    (torch.Size([2, 2, 3, 4]), True)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tnkit.errors import ShapeError

__all__ = ["Move", "Tensorization", "balanced_factors", "factors_for", "prime_factors"]

Shape = tuple[int, ...]


class Move(NamedTuple):
    """One step: pad with zeros at the end of each mode, reshape, or permute modes.

    Attributes:
        kind: which.
        to: the new shape, or the permutation.
        out: the shape after it.
    """

    kind: Literal["pad", "reshape", "permute"]
    to: Shape
    out: Shape


@dataclass(frozen=True, slots=True)
class Tensorization:
    """A plan from the user's array to the tensor that is decomposed.

    Attributes:
        shape: of the user's array.
        moves: the steps; those that would do nothing are left out.
    """

    shape: Shape
    moves: tuple[Move, ...] = ()

    @staticmethod
    def start(shape: Sequence[int]) -> Tensorization:
        """The plan that does nothing, to be gone on from."""
        return Tensorization(tuple(int(n) for n in shape))

    @property
    def out_shape(self) -> Shape:
        """The shape of the result."""
        return self.moves[-1].out if self.moves else self.shape

    @property
    def is_identity(self) -> bool:
        """Whether it does nothing at all."""
        return not self.moves

    @property
    def pads(self) -> bool:
        """Whether zeros are added."""
        return any(move.kind == "pad" for move in self.moves)

    def _then(self, kind: Literal["pad", "reshape", "permute"], to: Shape, out: Shape, *, idle: bool) -> Tensorization:
        return self if idle else Tensorization(self.shape, (*self.moves, Move(kind, to, out)))

    def pad(self, to: Sequence[int]) -> Tensorization:
        """Go on by padding with zeros to a shape.

        Raises:
            ShapeError: another number of modes, or a smaller size.
        """
        new, now = tuple(int(n) for n in to), self.out_shape
        if len(new) != len(now) or any(n < m for n, m in zip(new, now, strict=True)):
            raise ShapeError(f"Cannot pad shape {now} to {new}: give one size a mode, none smaller.")
        return self._then("pad", new, new, idle=new == now)

    def reshape(self, to: Sequence[int]) -> Tensorization:
        """Go on by reshaping, in row-major order.

        Raises:
            ShapeError: another number of entries.
        """
        new, now = tuple(int(n) for n in to), self.out_shape
        if prod(new) != prod(now) or min(new, default=1) < 1:
            raise ShapeError(f"Cannot reshape {now} ({prod(now)} entries) to {new} ({prod(new)}); pad first.")
        return self._then("reshape", new, new, idle=new == now)

    def permute(self, order: Sequence[int]) -> Tensorization:
        """Go on by permuting modes: mode k of the result is mode `order[k]` of what was.

        Raises:
            ShapeError: no permutation.
        """
        new, now = tuple(int(k) for k in order), self.out_shape
        if sorted(new) != list(range(len(now))):
            raise ShapeError(f"order={new} is not a permutation of the {len(now)} modes.")
        return self._then("permute", new, tuple(now[k] for k in new), idle=new == tuple(range(len(now))))

    def apply(self, x: Tensor) -> Tensor:
        """From the user's shape to `out_shape`; a view where that is possible.

        Raises:
            ShapeError: `x` has another shape.
        """
        if tuple(x.shape) != self.shape:
            raise ShapeError(f"This plan is for shape {self.shape}, but the array has shape {tuple(x.shape)}.")
        for kind, to, _ in self.moves:
            if kind == "pad":
                x = pad(x, [n for m, p in zip(reversed(x.shape), reversed(to), strict=True) for n in (0, p - m)])
            else:
                x = x.reshape(to) if kind == "reshape" else x.permute(to)
        return x

    def invert(self, y: Tensor) -> Tensor:
        """From `out_shape` back to the user's shape, padding cut away."""
        before = (self.shape, *(move.out for move in self.moves))
        for (kind, to, _), shape in zip(reversed(self.moves), reversed(before[:-1]), strict=True):
            if kind == "pad":
                y = y[tuple(slice(0, n) for n in shape)]
            else:
                y = y.reshape(shape) if kind == "reshape" else y.permute(_inverse(to))
        return y

    def positions(self, indices: Tensor) -> Tensor:
        """Where entries of the user's array stand in the result.

        Args:
            indices: (N, ndim) integers of 0 or more.

        Returns:
            (N, len(out_shape)) integers.
        """
        shape = self.shape
        for kind, to, out in self.moves:
            if kind == "permute":
                indices = indices[:, list(to)]
            elif kind == "reshape":
                flat = indices.new_zeros(indices.shape[0])
                for column, n in zip(indices.unbind(-1), shape, strict=True):
                    flat = flat * n + column
                columns: list[Tensor] = []
                for n in reversed(to):
                    columns.append(flat % n)
                    flat = flat // n
                indices = torch.stack(columns[::-1], -1) if columns else indices[:, :0]
            shape = out
        return indices

    def __str__(self) -> str:
        """The steps in words."""
        return " -> ".join([str(self.shape), *(f"{kind} {to}" for kind, to, _ in self.moves)])


def _inverse(order: Sequence[int]) -> list[int]:
    inverse = [0] * len(order)
    for position, k in enumerate(order):
        inverse[k] = position
    return inverse


def prime_factors(n: int) -> tuple[int, ...]:
    """Prime factors, ascending; (1,) for 1.

    Example:
        >>> prime_factors(360)
        (2, 2, 2, 3, 3, 5)
    """
    found: list[int] = []
    p = 2
    while p * p <= n:
        while n % p == 0:
            found.append(p)
            n //= p
        p += 1
    if n > 1 or not found:
        found.append(n)
    return tuple(found)


def balanced_factors(n: int, parts: int) -> tuple[int, ...]:
    """`parts` factors of exactly `n`, as equal as its primes allow, descending.

    Example:
        >>> balanced_factors(384, 3), balanced_factors(7, 2)
        ((8, 8, 6), (7, 1))
    """
    best: tuple[int, ...] = (n,) + (1,) * (parts - 1)
    for factors in _factorisations(n, parts, n):
        if sum(factors) < sum(best):
            best = factors
    return best


def _factorisations(n: int, parts: int, largest: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        if n <= largest:
            yield (n,)
        return
    for f in _divisors(n):
        if f <= largest and f**parts >= n:
            for rest in _factorisations(n // f, parts - 1, f):
                yield (f, *rest)


def _divisors(n: int) -> list[int]:
    small = [k for k in range(1, int(n**0.5) + 1) if n % k == 0]
    return sorted({*small, *(n // k for k in small)})


def factors_for(n: int, parts: int, *, spread: float = 2.0) -> tuple[int, ...]:
    """Balanced factors of the smallest size >= `n` that has them: none above `spread` times the geometric mean.

    Prime sizes are padded by little: 30522 in three becomes (37, 33, 25) rather than (5087, 3, 2).

    Example:
        >>> factors_for(30522, 3), factors_for(7, 2)
        ((37, 33, 25), (4, 2))
    """
    if n == 1 or parts == 1:
        return (n,) + (1,) * (parts - 1)
    size = n
    while True:
        factors = balanced_factors(size, parts)
        if factors[0] <= spread * size ** (1.0 / parts):
            return factors
        size += 1
