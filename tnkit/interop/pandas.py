"""pandas: tables of rows and columns, and long tables (one row for each observed entry), to observations and back.

After `import tnkit.interop.pandas`, every front door takes a DataFrame of numbers and gives dense answers back as one,
with its index and columns; NaN and NA are missing.

Example:
    >>> import pandas
    >>> from tnkit.completion import complete
    >>> from tnkit.interop.pandas import read_long
    >>> frame = pandas.DataFrame({"shop": ["a", "a", "b"], "day": [1, 2, 1], "sold": [2.0, 4.0, 3.0]})
    >>> table = read_long(frame, ["shop", "day"], "sold")
    >>> table.observations.shape
    (2, 2)
    >>> table.filled(complete(table.observations, "lowrank", rank=1)).round(3)["sold"].tolist()
    [2.0, 4.0, 3.0, 6.0]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tnkit.arrays import ARRAY_KINDS, check_dense_size
from tnkit.completion import Completion, Observations
from tnkit.errors import DTypeError, MaskError, MissingExtraError, OptionError, UnknownNameError

try:
    import pandas
except ImportError as error:
    raise MissingExtraError("pandas is not installed. Install it with: pip install 'tnkit[interop]'.") from error

__all__ = ["LongTable", "read_dataframe", "read_long"]


@dataclass(frozen=True, slots=True, eq=False)
class LongTable:
    """The entries of a long table, with the names that its positions stand for.

    Attributes:
        observations: what `complete` takes.
        modes: the names of the columns that are modes.
        value: the name of the column of values.
        levels: for each mode the label of each position, in order.
    """

    observations: Observations
    modes: tuple[Any, ...]
    value: Any
    levels: tuple[Any, ...]

    def predict(self, done: Completion, frame: Any) -> Any:
        """The model's values for the rows of a table, as a Series with the table's index.

        Args:
            done: the completion of `observations`.
            frame: a DataFrame with the columns of the modes; other columns are not looked at.

        Raises:
            UnknownNameError: a column is missing.
            OptionError: a label that was not there when the table was read.
        """
        _require(frame, self.modes)
        indices = np.stack([self._codes(frame, k) for k in range(len(self.modes))], -1)
        values = np.asarray(done.predict(indices)) if len(indices) else np.empty(0)
        return pandas.Series(values, index=frame.index, name=self.value)

    def filled(self, done: Completion) -> Any:
        """A long table of all positions, observed values as they were, in the order of the levels.

        Raises:
            MemoryLimitError: it would not fit; nothing was allocated.
        """
        obs = self.observations
        check_dense_size(obs.shape, obs.values.dtype, obs.values.device, what="The table of all positions")
        index = pandas.MultiIndex.from_product(self.levels, names=self.modes)
        values = np.asarray(done.filled).reshape(prod(obs.shape))
        return pandas.DataFrame({self.value: values}, index=index).reset_index()

    def _codes(self, frame: Any, k: int) -> Any:
        codes = self.levels[k].get_indexer(frame[self.modes[k]])
        if (codes < 0).any():
            bad = frame[self.modes[k]][codes < 0].iloc[0]
            raise OptionError(
                f"{bad!r} in column {self.modes[k]!r} was not there when the table was read, so nothing is known of "
                "it. Leave such rows out, or name it in levels= of read_long."
            )
        return codes


def read_long(
    frame: Any, modes: Sequence[Any], value: Any, *, weight: Any = None, levels: dict[Any, Any] | None = None
) -> LongTable:
    """The observations in a long table: one row for each entry that is known.

    Args:
        frame: a DataFrame. It is not changed. Rows whose value is missing (NaN, NA) are left out; rows with the same
            labels are averaged.
        modes: the columns that say where an entry stands; each becomes a mode, whose positions are its labels, sorted.
        value: the column of values.
        weight: the column of weights from 0 to 1, if there is one.
        levels: for some modes all labels in order, where there are more than the table shows, or in another order.

    Raises:
        UnknownNameError: a column is missing.
        OptionError: no modes, a label that is missing, or one that is not among `levels`.
        MaskError: no row has a value.

    Example:
        >>> frame = pandas.DataFrame({"place": ["x", "y"], "value": [1.0, None]})
        >>> read_long(frame, ["place"], "value").observations
        Observations(shape=(2,), 1 of 2 entries, 50 %, torch.float64, cpu)
    """
    names = tuple(modes) if not isinstance(modes, str) else (modes,)
    if not names:
        raise OptionError("read_long: modes names no column; name the columns that say where an entry stands.")
    _require(frame, (*names, value, *(() if weight is None else (weight,))))
    known = {} if levels is None else dict(levels)
    found = []
    for name in names:
        if frame[name].isna().any():
            raise OptionError(f"column {name!r} holds missing labels. Leave those rows out: frame.dropna(subset=…).")
        given = known.get(name)
        found.append(pandas.Index(frame[name].unique()).sort_values() if given is None else pandas.Index(given))
    rows = frame[frame[value].notna()]
    if not len(rows):
        raise MaskError(f"No row has a value in column {value!r}: nothing is observed.")
    sizes = tuple(len(level) for level in found)
    codes = []
    for name, level in zip(names, found, strict=True):
        code = level.get_indexer(rows[name])
        if (code < 0).any():
            raise OptionError(f"{rows[name][code < 0].iloc[0]!r} in column {name!r} is not among levels[{name!r}].")
        codes.append(code)
    values = rows[value].to_numpy(dtype=np.float64)
    weights = None if weight is None else rows[weight].to_numpy(dtype=np.float64)
    return LongTable(Observations(np.stack(codes, -1), values, sizes, weights), names, value, tuple(found))


def _require(frame: Any, names: Sequence[Any]) -> None:
    for name in names:
        if name not in frame.columns:
            raise UnknownNameError(f"The table has no column {name!r}. It has: {', '.join(map(str, frame.columns))}.")


def read_dataframe(x: Any) -> tuple[np.ndarray[Any, Any], Callable[[Any], Any]] | None:
    """The reader that is registered in `tnkit.arrays.ARRAY_KINDS`.

    Args:
        x: anything.

    Returns:
        The values as floats and the way back (the same index and columns, where the answer has the same shape), or
        None if `x` is no DataFrame.

    Raises:
        DTypeError: a column holds something other than numbers.

    Example:
        >>> import tnkit as tk
        >>> frame = pandas.DataFrame({"a": [1.0, 2.0, None], "b": [2.0, 4.0, 6.0]}, index=["x", "y", "z"])
        >>> tk.complete(frame, "lowrank", rank=1).filled.round(3).loc["z", "a"].item()
        3.0
    """
    if not isinstance(x, pandas.DataFrame):
        return None
    kinds = {name: dtype for name, dtype in x.dtypes.items() if not pandas.api.types.is_numeric_dtype(dtype)}
    if kinds:
        raise DTypeError(
            f"columns {list(kinds)} of the table hold no numbers ({', '.join(map(str, kinds.values()))}). Leave them "
            'out, frame.select_dtypes("number"), or convert them: pandas.to_numeric.'
        )
    flags = all(dtype == np.bool_ for dtype in x.dtypes)  # a mask
    values = x.to_numpy() if flags else x.to_numpy(dtype=_dtype(x), na_value=np.nan)

    def back(array: Any) -> Any:
        given = np.asarray(array)
        return pandas.DataFrame(given, index=x.index, columns=x.columns) if given.shape == x.shape else given

    return values, back


def _dtype(frame: Any) -> type[np.number[Any]]:
    """Of all columns together."""
    if any(pandas.api.types.is_complex_dtype(dtype) for dtype in frame.dtypes):
        return np.complex128
    return np.float32 if all(dtype in (np.float16, np.float32) for dtype in frame.dtypes) else np.float64


ARRAY_KINDS.register("pandas", read_dataframe)
