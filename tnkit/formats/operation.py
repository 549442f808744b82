"""Operation: an open function with a table by exact type and a generic way for everything else.

Example:
    >>> size = Operation[int]("size")
    >>> _ = size.generic(lambda x: len(x))
    >>> _ = size.register(int)(lambda x: 1)
    >>> size("abc"), size(7)
    (3, 1)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["Operation"]

R = TypeVar("R")
C = TypeVar("C", bound="Callable[..., Any]")


class Operation(Generic[R]):
    """A function that a format may do better than the generic way.

    Args:
        name: for messages.
        arity: how many leading arguments choose, by their exact types.
    """

    def __init__(self, name: str, arity: int = 1) -> None:
        self.name = name
        self.arity = arity
        self._table: dict[tuple[type, ...], Callable[..., R]] = {}
        self._generic: Callable[..., R] | None = None

    def register(self, *types: type) -> Callable[[C], C]:
        """A decorator that gives the function for these types."""

        def add(function: C) -> C:
            self._table[types] = function
            return function

        return add

    def generic(self, function: C) -> C:
        """A decorator that gives the function for everything else."""
        self._generic = function
        return function

    def special(self, *types: type) -> bool:
        """Whether these types have a function of their own."""
        return types in self._table

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        """Call what the table has for the types of the arguments, or the generic way."""
        function = self._table.get(tuple(type(a) for a in args[: self.arity]), self._generic)
        if function is None:
            raise TypeError(f"{self.name} is not defined for {', '.join(type(a).__name__ for a in args)}.")
        return function(*args, **kwargs)
