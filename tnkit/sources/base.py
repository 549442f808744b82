"""Source: an array that is not a dense tensor in memory, and the rule that recognises one.

A kind of source is one file: a `Source`, and a `Maker` registered in `SOURCE_KINDS` that recognises what callers give.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from tnkit.errors import OptionError
from tnkit.registry import Registry

__all__ = ["SOURCE_KINDS", "Asked", "Source", "as_bytes", "as_source"]


class Source(ABC):
    """An array by other means than its entries in memory.

    Class attributes:
        kind: "entries" (a function of indices), "sparse" (coordinates and values) or "slabs" (read piece by piece).
            Methods say which kind they need.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """In which it is computed: an engine dtype."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it is computed."""

    @classmethod
    @abstractmethod
    def from_dense(cls, x: Tensor) -> Source:
        """A tensor in memory as a source of this kind, for a method that is asked for by name."""

    @property
    def numel(self) -> int:
        """Entries of the whole array."""
        total = 1
        for n in self.shape:
            total *= n
        return total


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def as_bytes(limit: Any) -> int | None:
    """A number of bytes from a number or from text such as "300 MB" or "2 GiB".

    Raises:
        OptionError: anything else.

    Example:
        >>> as_bytes("300 MB"), as_bytes("2 GiB"), as_bytes(None)
        (300000000, 2147483648, None)
    """
    if limit is None:
        return None
    if isinstance(limit, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", limit.lower())
        if found and found[2] in _UNITS and float(found[1]) > 0:
            return int(float(found[1]) * _UNITS[found[2]])
    elif isinstance(limit, Integral) and not isinstance(limit, bool) and int(limit) > 0:
        return int(limit)
    raise OptionError(
        f'memory_limit={limit!r} is not a number of bytes. Give an int above 0, or text such as "300 MB".'
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """What the caller said beside the array.

    Attributes:
        shape: of a function's domain, or of coordinates.
        memory_limit: bytes that may be used beside the result.
    """

    shape: Sequence[int] | None = None
    memory_limit: int | None = None


Maker: TypeAlias = Callable[[Any, Asked], "Source | None"]

#: Functions (x, asked) → a source, or None where x is not of that kind.
SOURCE_KINDS: Registry[Maker] = Registry("source kind")


def as_source(x: Any, asked: Asked | None = None) -> Source | None:
    """The source that `x` is, or None for anything that `as_tensor` reads.

    Args:
        x: anything.
        asked: what was said beside it.
    """
    if isinstance(x, Source):
        return x
    for name in SOURCE_KINDS:
        found = SOURCE_KINDS.get(name)(x, asked or Asked())
        if found is not None:
            return found
    return None
