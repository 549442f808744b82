"""Observations: which entries of an array are known, and their values.

They come from an array with NaN, an array with a mask (True = observed), a `numpy.ma` array (whose own convention is
the other way round: masked = missing) or from coordinates, which are never made dense. What stands in a cell that is
not observed is never read.

Example:
    >>> import numpy as np
    >>> from tnkit.completion import Observations
    >>> obs = Observations.from_dense(np.array([[1.0, np.nan], [3.0, 4.0]]))
    >>> obs.indices.tolist(), obs.values.tolist()
    ([[0, 0], [1, 0], [1, 1]], [1.0, 3.0, 4.0])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tnkit.arrays import ArrayLike, Incoming, as_tensor, check_dense_size
from tnkit.errors import DataError, DTypeError, MaskError, OptionError, ShapeError
from tnkit.formats.indexing import normalize_indices

__all__ = ["Observations"]


def _same(t: Tensor) -> Any:
    return t


@dataclass(frozen=True, eq=False, repr=False)
class Observations:
    """Observed entries of an array, in row-major order, each position once.

    Positions that are given more than once are averaged (by their weights, where there are some; the weight of the
    mean is the largest of theirs). The order in which entries are given does not matter.

    Args:
        indices: (N, d) whole numbers; negative ones count from the end.
        values: (N,) numbers, all finite.
        shape: of the whole array.
        weights: (N,) numbers from 0 to 1: how much each entry counts in the fit; all 1 by default.

    Attributes:
        indices: (N, d) int64, ascending.
        values: (N,) in an engine dtype.
        shape: of the whole array.
        weights: (N,) real, or None.
        back: turns a tensor into the kind of array that the values came as.

    Raises:
        ShapeError: arrays that do not fit each other, or a shape with no entries.
        OptionError: indices out of range or not whole, weights outside 0 … 1.
        MaskError: nothing is observed.
        DataError: NaN or infinite values.

    Example:
        >>> Observations([[0, 1], [2, 0], [0, 1]], [1.0, 5.0, 3.0], shape=(3, 2)).values.tolist()
        [2.0, 5.0]
    """

    indices: Tensor
    values: Tensor
    shape: tuple[int, ...]
    weights: Tensor | None = None
    back: Callable[[Tensor], Any] = field(default=_same)

    def __init__(
        self, indices: ArrayLike, values: ArrayLike, shape: Sequence[int], weights: ArrayLike | None = None
    ) -> None:
        size = _checked_shape(shape)
        if _length(values) == 0:
            raise MaskError(f"Observations of an array of shape {size}: nothing is observed. Give at least one entry.")
        incoming = as_tensor(values, name="values")
        known = incoming.tensor.detach()
        if known.ndim != 1:
            raise ShapeError(
                f"values of shape {tuple(known.shape)}: one number for each observed entry is needed, (N,)."
            )
        rows = normalize_indices(indices, size, known.device)
        if rows.shape[0] != known.shape[0]:
            raise ShapeError(f"{rows.shape[0]} indices but {known.shape[0]} values; give one value for each index.")
        weight = None if weights is None else _checked_weights(weights, known, (known.shape[0],))
        _require_finite(known, "values")
        self._set(*_sorted(rows, known, weight, size), size, incoming.back)

    def _set(
        self,
        indices: Tensor,
        values: Tensor,
        weights: Tensor | None,
        shape: tuple[int, ...],
        back: Callable[[Tensor], Any],
    ) -> None:
        for name, value in (
            ("indices", indices),
            ("values", values),
            ("shape", shape),
            ("weights", weights),
            ("back", back),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def from_dense(cls, x: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None) -> Observations:
        """The observed entries of an array.

        Args:
            x: an array; without a mask, NaN (in lists and arrays of objects also None) is missing. A `numpy.ma` array
                brings its own mask.
            mask: of the shape of `x`, bool (or 0 and 1): True where observed. What stands elsewhere is not read.
            weights: of the shape of `x`, from 0 to 1; those of entries that are not observed are not read.

        Raises:
            MaskError: a mask of another shape or kind, two masks, or nothing observed.
            DataError: an empty array, or observed entries that are infinite, or NaN under a mask that calls them
                observed.

        Example:
            >>> import torch
            >>> Observations.from_dense(torch.tensor([1.0, 2.0]), mask=[True, False]).values
            tensor([1.])
        """
        incoming, seen = read(x, mask)
        return cls.from_seen(incoming, seen, weights)

    @classmethod
    def from_seen(cls, incoming: Incoming, seen: Tensor, weights: ArrayLike | None = None) -> Observations:
        """The entries of an array that has come in already, where `seen` is True."""
        x = incoming.tensor.detach()
        shape = tuple(x.shape)
        indices = seen.nonzero()
        if indices.shape[0] == 0:
            raise MaskError(
                f"Nothing is observed in x of shape {shape}: every entry is missing. "
                "mask is True where an entry IS observed; is it the other way round?"
            )
        values = x[seen]
        _require_finite(values, "x, in its observed entries,")
        weight = None if weights is None else _checked_weights(weights, values, shape, seen)
        made = object.__new__(cls)
        made._set(indices, values, weight, shape, incoming.back)
        return made

    @property
    def n(self) -> int:
        """The number of observed entries."""
        return int(self.values.shape[0])

    @property
    def ndim(self) -> int:
        """The number of modes."""
        return len(self.shape)

    @property
    def fraction(self) -> float:
        """The share of entries that are observed."""
        return self.n / prod(self.shape)

    @property
    def complete(self) -> bool:
        """Whether every entry is observed."""
        return self.n == prod(self.shape)

    def take(self, picks: Tensor) -> Observations:
        """Some of the entries.

        Args:
            picks: (N,) bool.
        """
        made = object.__new__(Observations)
        weights = None if self.weights is None else self.weights[picks]
        made._set(self.indices[picks], self.values[picks], weights, self.shape, self.back)
        return made

    def as_tensors(self) -> Observations:
        """The same entries, which forget the kind of array that they came as; other processes can be sent them."""
        made = object.__new__(Observations)
        made._set(self.indices, self.values, self.weights, self.shape, _same)
        return made

    def with_values(self, values: Tensor) -> Observations:
        """The same entries with other values.

        Args:
            values: (N,) finite.
        """
        made = object.__new__(Observations)
        made._set(self.indices, values, self.weights, self.shape, self.back)
        return made

    def with_weights(self, weights: Tensor | None) -> Observations:
        """The same entries with other weights.

        Args:
            weights: (N,) from 0 to 1, not all 0; None for all 1.
        """
        made = object.__new__(Observations)
        made._set(self.indices, self.values, weights, self.shape, self.back)
        return made

    def moved(self, mode: int, positions: Tensor, size: int) -> Observations:
        """The same entries at other positions of one mode, in the same order.

        Args:
            mode: which.
            positions: (N,) from 0 to `size`, ascending where the old ones do.
            size: of the mode from now on.
        """
        made = object.__new__(Observations)
        indices = self.indices.clone()
        indices[:, mode] = positions
        shape = tuple(size if k == mode else n for k, n in enumerate(self.shape))
        made._set(indices, self.values, self.weights, shape, self.back)
        return made

    def fill(self, dense: Tensor) -> Tensor:
        """A copy of a dense tensor with the observed values put in, bit by bit."""
        filled = dense.to(self.values.dtype, copy=True)
        filled[tuple(self.indices.unbind(-1))] = self.values
        return filled

    def to_dense(self, missing: float = 0.0) -> Tensor:
        """The dense tensor, with `missing` elsewhere.

        Raises:
            MemoryLimitError: it would not fit; nothing was allocated.
        """
        check_dense_size(self.shape, self.values.dtype, self.values.device, what="The array of these observations")
        return self.fill(self.values.new_full(self.shape, missing))

    def mask(self) -> Tensor:
        """True where observed.

        Raises:
            MemoryLimitError: it would not fit; nothing was allocated.
        """
        check_dense_size(self.shape, torch.bool, self.values.device, what="The mask of these observations")
        seen = torch.zeros(self.shape, dtype=torch.bool, device=self.values.device)
        seen[tuple(self.indices.unbind(-1))] = True
        return seen

    def __repr__(self) -> str:
        """Number, share, shape and dtype."""
        share = f"{self.n:,} of {prod(self.shape):,} entries, {100 * self.fraction:.3g} %"
        return f"Observations(shape={self.shape}, {share}, {self.values.dtype}, {self.values.device})"


def read(x: ArrayLike, mask: ArrayLike | None) -> tuple[Incoming, Tensor]:
    """An array and where it is observed.

    Raises:
        MaskError: a mask of another shape or kind, or two masks.
        DataError: NaN where a mask says that there is a value.
    """
    if isinstance(x, np.ma.MaskedArray):
        if mask is not None:
            raise MaskError("x is a numpy.ma array, which has a mask of its own; give x.data with mask=, or x alone.")
        incoming = as_tensor(x.data)
        plain = incoming.back

        def back(t: Tensor) -> Any:
            return np.ma.masked_array(plain(t))

        incoming = Incoming(incoming.tensor, back, incoming.dtype)
        seen = torch.from_numpy(~np.ma.getmaskarray(x)).to(incoming.tensor.device)
        who = "x.mask"
    else:
        incoming = as_tensor(_numbers(x))
        if mask is None:
            return incoming, ~torch.isnan(incoming.tensor)
        seen = _checked_mask(mask, incoming.tensor)
        who = "mask"
    wrong = int((torch.isnan(incoming.tensor) & seen).sum())
    if wrong:
        raise DataError(
            f"x holds NaN in {wrong} entries that {who} calls observed. Leave them out of it "
            "(mask & ~isnan(x)), or give no mask: NaN alone is missing."
        )
    return incoming, seen


def _numbers(x: ArrayLike) -> ArrayLike:
    """Lists and arrays of objects as numbers, NaN for None and other marks of nothing; all else as it is.

    Raises:
        DTypeError: an object that is neither a number nor a mark of nothing.
    """
    if not isinstance(x, list | tuple | np.ndarray):
        return x
    try:
        array = np.asarray(x)
    except (ValueError, TypeError):
        return x  # ragged, which `as_tensor` tells
    if array.dtype != object:
        return array if isinstance(x, list | tuple) else x
    found = np.empty(array.shape, dtype=complex)
    for at, value in np.ndenumerate(array):
        if value is None or type(value).__name__ in ("NAType", "NaTType"):
            found[at] = np.nan
        elif isinstance(value, Number):
            found[at] = complex(value)  # type: ignore[call-overload]
        else:
            raise DTypeError(
                f"x holds {str(value)[:30]!r} ({type(value).__name__}) at {at}. Give numbers, and None or NaN where "
                "nothing is observed."
            )
    return found if any(isinstance(value, complex | np.complexfloating) for value in array.flat) else found.real.copy()


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    try:
        size = tuple(int(n) for n in shape)
    except TypeError:
        raise ShapeError(f"shape={shape!r} is not a sequence of sizes; give one whole number for each mode.") from None
    if not size or min(size) < 1:
        raise ShapeError(f"shape={size} holds no entry; give one size of 1 or more for each mode.")
    return size


def _length(values: Any) -> int:
    try:
        return len(values)
    except TypeError:
        return -1


def _require_finite(values: Tensor, what: str) -> None:
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise DataError(
            f"{what} hold{'' if what == 'values' else 's'} {bad} NaN or infinite number{'s' * (bad > 1)}. "
            "Leave such entries out: they count as missing then."
        )


def _checked_mask(mask: ArrayLike, x: Tensor) -> Tensor:
    if isinstance(mask, np.ma.MaskedArray):
        raise MaskError("mask is a numpy.ma array itself; give a plain bool array, True where x is observed.")
    found = as_tensor(mask, name="mask")
    flags = found.tensor
    if tuple(flags.shape) != tuple(x.shape):
        raise MaskError(
            f"mask has shape {tuple(flags.shape)}, but x has shape {tuple(x.shape)}. Give one bool for each entry, "
            "True where it is observed; np.broadcast_to(mask, x.shape) repeats a mask over further modes."
        )
    if found.dtype != torch.bool:
        whole = found.dtype.is_floating_point or found.dtype.is_complex
        if whole or not bool(((flags == 0) | (flags == 1)).all()):
            raise MaskError(
                f"mask holds {str(found.dtype).removeprefix('torch.')} numbers, not bools. Give True (1) where x is "
                "observed and False (0) where it is missing; weights= takes numbers from 0 to 1."
            )
    return flags.to(device=x.device) != 0


def _checked_weights(weights: ArrayLike, values: Tensor, shape: tuple[int, ...], seen: Tensor | None = None) -> Tensor:
    found = as_tensor(weights, name="weights").tensor.detach()
    if tuple(found.shape) != shape:
        raise ShapeError(f"weights have shape {tuple(found.shape)}; one for each entry is needed: shape {shape}.")
    if found.is_complex():
        raise OptionError("weights are complex; give real numbers from 0 to 1.")
    weight = found.to(device=values.device, dtype=values.real.dtype)
    weight = weight if seen is None else weight[seen]
    if not bool(((weight >= 0) & (weight <= 1)).all()):
        raise OptionError("weights hold numbers outside 0 … 1 (or NaN). Divide them by the largest.")
    if not bool((weight > 0).any()):
        raise MaskError("All weights are 0, so nothing counts as observed. Give at least one weight above 0.")
    return weight


def _sorted(
    rows: Tensor, values: Tensor, weights: Tensor | None, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Entries in row-major order, equal positions merged."""
    key = rows.new_zeros(rows.shape[0])
    spread = 1
    for column, n in zip(rows.unbind(-1), shape, strict=True):
        if spread * n >= 2**62:
            key = torch.unique(key, return_inverse=True)[1]  # keeps the order, and is below N
            spread = rows.shape[0]
        key, spread = key * n + column, spread * n
    order = torch.argsort(key, stable=True)
    _, place, count = torch.unique_consecutive(key[order], return_inverse=True, return_counts=True)
    rows, values = rows[order], values[order]
    weights = None if weights is None else weights[order]
    if count.shape[0] == rows.shape[0]:
        return rows, values, weights
    first = torch.cumsum(count, 0) - count
    share = torch.ones_like(values.real) if weights is None else weights
    order = torch.argsort(values.abs(), stable=True)  # one order of summation, however the entries were given
    order = order[torch.argsort(place[order], stable=True)]
    total = _grouped(share[order], place[order], count.shape[0])
    mean = _grouped((values * share)[order], place[order], count.shape[0]) / torch.where(total > 0, total, 1)
    values = torch.where((count > 1) & (total > 0), mean, values[first])
    if weights is not None:
        largest = torch.zeros_like(total).scatter_reduce(0, place, weights, "amax")
        weights = largest
    return rows[first], values, weights


def _grouped(values: Tensor, place: Tensor, n: int) -> Tensor:
    out = values.new_zeros(n)
    if values.device.type == "cpu":
        return out.index_add_(0, place, values)
    return out.index_put_((place,), values, accumulate=True)
