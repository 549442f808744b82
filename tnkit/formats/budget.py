"""Budget: what a result may cost. One class for arrays, searches and layers.

Example:
    >>> from tnkit.formats import Budget
    >>> Budget(params=0.25).max_params(dense=1000)
    250
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf
from numbers import Integral, Real

import torch

from tnkit.errors import BudgetError

__all__ = ["Budget", "as_budget", "looks_like_a_count"]

#: Limits of which a float is a fraction.
COUNTED = ("params", "bytes", "flops")


@dataclass(frozen=True, slots=True)
class Budget:
    """Upper limits; those that are None do not bind. Everything that is given holds at once.

    Attributes:
        params: stored real numbers; an int is a count, a float a fraction of the dense ones.
        bytes: storage; an int is a count, a float a fraction.
        flops: of one application (layers); an int is a count, a float a fraction.
        latency_ms: measured milliseconds (layers).
        max_error: relative error.
        max_drop: of the value of `eval_fn` (layers).
    """

    params: int | float | None = None
    bytes: int | float | None = None
    flops: int | float | None = None
    latency_ms: float | None = None
    max_error: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        """Refuse limits that cannot be met by anything.

        Raises:
            BudgetError: a limit that is no number, not positive, or a NaN.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, Real):
                raise BudgetError(
                    f"Budget({field.name}={value!r}) is no number. An int is a count, a float a fraction."
                )
            zero_is_fine = field.name in {"max_error", "max_drop"}
            if not (float(value) >= 0 if zero_is_fine else float(value) > 0):
                raise BudgetError(f"Budget({field.name}={value!r}) leaves nothing. Give a positive number.")
            if float(value) == inf:
                raise BudgetError(f"Budget({field.name}={value!r}) is no limit. Leave it out, or give a finite number.")
            if field.name in COUNTED and looks_like_a_count(value):
                raise BudgetError(
                    f"Budget({field.name}={value!r}) is a float: {float(value):g} times the dense {field.name}. "
                    f"For that many {field.name} give an int: {int(float(value))}."
                )

    def max_params(self, dense: int, dtype: torch.dtype = torch.float64) -> int | None:
        """The most stored real numbers that `params` and `bytes` allow, or None where neither is given.

        Args:
            dense: stored real numbers of the dense array.
            dtype: of the entries, for `bytes`.
        """
        real_bytes = dtype.itemsize // (2 if dtype.is_complex else 1)
        limits = []
        if self.params is not None:
            limits.append(_count(self.params, dense))
        if self.bytes is not None:
            limits.append(_count(self.bytes, dense * real_bytes) // real_bytes)
        return min(limits) if limits else None


def looks_like_a_count(value: object) -> bool:
    """Whether a float, which is a fraction, was meant as a count: 1e4, 20.0."""
    return not isinstance(value, Integral) and isinstance(value, Real) and float(value) >= 2 and float(value) % 1 == 0


def _count(limit: int | float, whole: int) -> int:
    return int(limit) if isinstance(limit, Integral) else int(float(limit) * whole)


def as_budget(budget: Budget | int | float | None) -> Budget:
    """A Budget from what a user may write: a count, a fraction, a Budget or nothing.

    Raises:
        BudgetError: anything else.
    """
    if budget is None:
        return Budget()
    return budget if isinstance(budget, Budget) else Budget(params=budget)
