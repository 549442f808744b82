"""Ranks: what a user may write for `rank`, turned into one integer a bond.

Example:
    >>> from tnkit.formats import TTSpec, resolve_ranks
    >>> resolve_ranks(TTSpec().layout((4, 8, 8, 4)), 10)
    (4, 10, 4)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from numbers import Integral, Real
from typing import TypeAlias, cast

from tnkit.errors import BudgetError, RankError
from tnkit.formats.budget import looks_like_a_count
from tnkit.formats.layout import Layout

__all__ = ["RankLike", "grow_within", "ranks_within", "resolve_ranks"]

RankLike: TypeAlias = "int | float | str | Sequence[int] | Mapping[str, int]"


def resolve_ranks(layout: Layout, rank: RankLike) -> tuple[int, ...]:
    """One rank a bond.

    Args:
        layout: the format over the shape.
        rank: an int (every bond, clipped to what the shape admits), a sequence (as given; too large is an error),
            a mapping by bond (bonds left out get their largest useful rank), a float or "same" (= 1.0): a fraction of
            the dense entries, used as fully as uniform ranks allow, and then bond by bond.

    Raises:
        RankError: not of these kinds, not positive, too many or too few entries, unknown bonds, or too large.
        BudgetError: a fraction in which not even rank one fits.
    """
    if isinstance(rank, str):
        if rank != "same":
            raise RankError(
                f'{layout.name} rank={rank!r} is unknown. Use an int, a tuple, a dict, a fraction or "same".'
            )
        rank = 1.0
    if isinstance(rank, bool):
        raise RankError(f"{layout.name} rank={rank} is a bool. Use an int, a tuple, a dict, a fraction or 'same'.")
    if isinstance(rank, Integral):
        _require_positive(layout, "", int(rank))
        return tuple(min(int(rank), cap) for cap in layout.caps)
    if isinstance(rank, Real):
        if not 0 < float(rank) < inf:
            raise RankError(f"{layout.name} rank={rank} as a fraction of the dense entries must be above 0 and finite.")
        if looks_like_a_count(rank):
            raise RankError(
                f"{layout.name} rank={rank} is a float: {float(rank):g} times the dense entries. "
                f"For that rank give an int: {int(float(rank))}."
            )
        return ranks_within(layout, int(float(rank) * layout.dense_size))
    if isinstance(rank, Mapping):
        return _from_mapping(layout, rank)
    try:
        entries = tuple(cast("Sequence[int]", rank))
    except TypeError:
        raise RankError(
            f"{layout.name} rank={rank!r} is not a rank. Use an int, a tuple, a dict, a fraction or 'same'."
        ) from None
    return _from_sequence(layout, entries)


def _require_positive(layout: Layout, where: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
        raise RankError(f"{layout.name} rank {value!r}{where} is not allowed. Ranks are whole numbers of 1 or more.")
    return int(value)


def _from_mapping(layout: Layout, rank: Mapping[str, int]) -> tuple[int, ...]:
    unknown = [name for name in rank if name not in layout.bonds]
    if unknown:
        raise RankError(
            f"{layout.name} over shape {layout.shape} has no bond {unknown[0]!r}. Its bonds: {', '.join(layout.bonds)}."
        )
    return _from_sequence(
        layout, tuple(rank.get(bond, cap) for bond, cap in zip(layout.bonds, layout.caps, strict=True))
    )


def _from_sequence(layout: Layout, entries: tuple[object, ...]) -> tuple[int, ...]:
    given = entries
    n = len(layout.bonds)
    if layout.closing == "ones" and len(entries) == n + 2 and entries[0] == entries[-1] == 1:
        entries = entries[1:-1]
    elif layout.closing == "cyclic" and len(entries) == n + 1 and entries[0] == entries[-1]:
        entries = entries[:-1]
    if len(entries) != n:
        raise RankError(
            f"{layout.name} rank={given} has {len(given)} entries, but shape {layout.shape} has {n} bonds "
            f"({', '.join(layout.bonds) or 'none'}). Give one entry a bond, or an int for all."
        )
    ranks = []
    for k, (value, cap) in enumerate(zip(entries, layout.caps, strict=True)):
        plain = _require_positive(layout, f" at bond {layout.bonds[k]}", value)
        if plain > cap:
            raise RankError(
                f"{layout.name} rank {plain} at bond {layout.bonds[k]} exceeds {cap}, the most that shape "
                f"{layout.shape} admits there. Use rank<={cap}, or give eps= instead."
            )
        ranks.append(plain)
    return tuple(ranks)


def ranks_within(layout: Layout, max_params: int, caps: Sequence[int] | None = None) -> tuple[int, ...]:
    """The largest ranks whose entries fit: uniform first, then bond by bond.

    Args:
        layout: the format over the shape.
        max_params: entries that may be stored.
        caps: upper limits; the layout's by default.

    Raises:
        BudgetError: not even rank one fits.
    """
    limits = tuple(layout.caps if caps is None else caps)
    least = layout.n_params((1,) * len(limits))
    if least > max_params:
        raise BudgetError(
            f"{layout.name} over shape {layout.shape} needs {least} parameters at rank 1, but the budget is "
            f"{max_params}. Allow at least {least}, or take a smaller format."
        )

    def clipped(r: int) -> tuple[int, ...]:
        return tuple(min(r, limit) for limit in limits)

    low, high = 1, max(limits, default=1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if layout.n_params(clipped(middle)) <= max_params else (low, middle - 1)
    return grow_within(layout, clipped(low), max_params, limits)


def grow_within(
    layout: Layout, ranks: Sequence[int], max_params: int, caps: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Raise ranks by one, the smallest first, until no bond can grow within the budget."""
    limits = tuple(layout.caps if caps is None else caps)
    current = list(ranks)
    open_bonds = set(range(len(current)))
    while open_bonds:
        k = min(open_bonds, key=lambda b: (current[b], b))
        current[k] += 1
        if current[k] > limits[k] or layout.n_params(current) > max_params:
            current[k] -= 1
            open_bonds.discard(k)
    return tuple(current)
