"""Names to objects: formats, methods, drivers, layers, and what optional packages provide.

A lower room looks a provider up here by name; `tnkit.interop` registers it. So no room imports a room above it.

Example:
    >>> from tnkit.registry import Registry
    >>> colours = Registry("colour")
    >>> colours.register("red", 1)
    1
    >>> colours.get("red"), colours.names()
    (1, ('red',))
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from tnkit.errors import MissingExtraError, UnknownNameError

__all__ = [
    "COMPLETIONS",
    "FORMATS",
    "LAYERS",
    "METHODS",
    "PROVIDERS",
    "SPLIT_DRIVERS",
    "Registry",
    "provider",
]

T = TypeVar("T")


class Registry(Generic[T]):
    """An ordered table of names, each of which is given once.

    Args:
        kind: what the names stand for ("format", "method" …); used in messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str, value: T) -> T:
        """Give `name` to `value` and return `value`; a name that is taken by something else is an error."""
        if name in self._entries and self._entries[name] is not value:
            raise ValueError(f"The {self.kind} {name!r} is registered already, as {self._entries[name]!r}.")
        self._entries[name] = value
        return value

    def get(self, name: str) -> T:
        """The object of that name.

        Raises:
            UnknownNameError: no such name; the message gives the nearest and lists all.
        """
        if name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(str(name).lower(), self._entries, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownNameError(f"Unknown {self.kind} {name!r}.{hint} Known: {', '.join(map(repr, self._entries))}.")

    def names(self) -> tuple[str, ...]:
        """All names, in the order in which they were registered."""
        return tuple(self._entries)

    def items(self) -> Mapping[str, T]:
        """A copy of the table."""
        return dict(self._entries)

    def __contains__(self, name: object) -> bool:
        """Whether the name is known."""
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._entries)

    def __len__(self) -> int:
        """How many names there are."""
        return len(self._entries)

    def __repr__(self) -> str:
        """The kind and its names."""
        return f"Registry({self.kind!r}: {', '.join(self._entries)})"


FORMATS: Registry[Any] = Registry("format")
METHODS: Registry[Any] = Registry("method")
COMPLETIONS: Registry[Any] = Registry("completion method")
SPLIT_DRIVERS: Registry[Any] = Registry("split driver")
LAYERS: Registry[Any] = Registry("layer type")
PROVIDERS: Registry[Any] = Registry("provider")


def provider(name: str, extra: str) -> Any:
    """What an optional package provides under `name`.

    Args:
        name: for example "path:cotengra" or "plot:bands".
        extra: the extra of tnkit that installs the package.

    Raises:
        MissingExtraError: nothing has registered it.
    """
    if name in PROVIDERS:
        return PROVIDERS.get(name)
    module = name.partition(":")[2] or name
    raise MissingExtraError(
        f"{name!r} needs an optional package. Install it with: pip install 'tnkit[{extra}]', "
        f"and import tnkit.interop.{module}."
    )
