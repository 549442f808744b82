"""Long tables in .csv files: a row for each entry that is known, or that is asked for.

All columns but the last are modes, and the last holds the values, unless their names are given. A row whose value is
empty or NaN is asked for: then these rows are filled in and written, with all others as they came; where none is, a row
is written for every position. The table is read and written with Python's csv module, so nothing else is needed.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import isfinite, isnan, prod
from pathlib import Path
from typing import Any

import numpy as np

from tnkit.completion import Completion, Observations
from tnkit.errors import FileFormatError, MaskError, OptionError
from tnkit.files import replacing

__all__ = ["LongForm"]

#: Positions of the largest table that is written whole.
MOST = 10_000_000


@dataclass(frozen=True, slots=True, eq=False)
class LongForm:
    """A long table.

    Attributes:
        header: the names of the columns.
        rows: as they stand in the file.
        places: (rows, modes) the position of each row.
        levels: for each mode its labels, in the order of the positions.
        modes: the columns that are modes.
        value: the column of the values.
        known: (rows,) True where a value stands.
        observations: those rows.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    places: np.ndarray[Any, Any]
    levels: tuple[tuple[str, ...], ...]
    modes: tuple[int, ...]
    value: int
    known: np.ndarray[Any, Any]
    observations: Observations

    @staticmethod
    def read(file: Path, modes: Sequence[str] | None = None, value: str | None = None) -> LongForm:
        """Read a table.

        Args:
            file: .csv with a line of names; separated by commas, semicolons or tabs.
            modes: the columns that say where an entry stands; by default all but the value's.
            value: the column of values; by default the last.

        Raises:
            FileFormatError: no such file, no rows, a row that is too short, a value that is no number.
            OptionError: a column that is not there, or no mode.
            MaskError: no row has a value.
        """
        header, rows = _lines(file)
        at = len(header) - 1 if value is None else _column(file, header, value)
        columns = (
            tuple(k for k in range(len(header)) if k != at)
            if modes is None
            else tuple(_column(file, header, name) for name in modes)
        )
        if not columns or at in columns:
            raise OptionError(f"{file}: there must be a mode besides the value. Columns: {', '.join(header)}.")
        values = np.array([_number(file, row[at], line) for line, row in enumerate(rows, start=2)])
        known = ~np.isnan(values)
        if not known.any():
            raise MaskError(f"{file}: no row has a value in column {header[at]!r}: nothing is observed.")
        levels, codes = [], []
        for k in columns:
            labels = tuple(sorted({row[k] for row in rows}, key=_order))
            place = {label: number for number, label in enumerate(labels)}
            levels.append(labels)
            codes.append([place[row[k]] for row in rows])
        places = np.array(codes).T
        sizes = tuple(map(len, levels))
        observations = Observations(places[known], values[known], sizes)
        return LongForm(header, rows, places, tuple(levels), columns, at, known, observations)

    def write(self, file: Path, done: Completion) -> int:
        """Write the completed table; what was observed stands as it came.

        Returns:
            How many values were filled in.

        Raises:
            OptionError: no row asks for a value, and there are too many positions to write them all.
        """
        if not self.known.all():
            guesses = iter(np.asarray(done.predict(self.places[~self.known])))
            table = [
                row if seen else self._with(row, next(guesses)) for row, seen in zip(self.rows, self.known, strict=True)
            ]
            header, filled = self.header, int((~self.known).sum())
        else:
            sizes = self.observations.shape
            if prod(sizes) > MOST:
                raise OptionError(
                    f"the table has {prod(sizes):,} positions, which are too many to write. Add rows with an empty "
                    "value for those that are wanted."
                )
            dense = np.asarray(done.filled).reshape(-1)
            header = tuple(self.header[k] for k in (*self.modes, self.value))
            table = [(*labels, f"{x:.10g}") for labels, x in zip(product(*self.levels), dense, strict=True)]
            filled = prod(sizes) - self.observations.n
        with replacing(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(header)
            writer.writerows(table)
        return filled

    def _with(self, row: tuple[str, ...], x: float) -> tuple[str, ...]:
        return tuple(f"{x:.10g}" if k == self.value else cell for k, cell in enumerate(row))


def _lines(file: Path) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The header and the rows; empty lines do not count."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{file}: cannot be read as text ({error}).") from None
    first = text.partition("\n")[0]
    mark = max(",;\t", key=first.count)
    lines = [tuple(cell.strip() for cell in row) for row in csv.reader(text.splitlines(), delimiter=mark) if any(row)]
    if len(lines) < 2:
        raise FileFormatError(f"{file}: holds no rows below a line of names.")
    header = lines[0]
    for number, row in enumerate(lines[1:], start=2):
        if len(row) != len(header):
            raise FileFormatError(f"{file}: row {number} has {len(row)} cells, but there are {len(header)} columns.")
    return header, tuple(lines[1:])


def _column(file: Path, header: tuple[str, ...], name: str) -> int:
    if name not in header:
        raise OptionError(f"{file}: there is no column {name!r}. It has: {', '.join(header)}.")
    return header.index(name)


def _number(file: Path, cell: str, line: int) -> float:
    """NaN where nothing stands."""
    if cell.lower() in ("", "nan", "na", "null"):
        return float("nan")
    try:
        x = float(cell)
    except ValueError:
        raise FileFormatError(
            f"{file}: row {line} holds {cell!r}, which is no number. Leave it empty if missing."
        ) from None
    if not isfinite(x) and not isnan(x):
        raise FileFormatError(f"{file}: row {line} holds an infinite value. Leave it empty if it is missing.")
    return x


def _order(label: str) -> tuple[int, float, str]:
    """Numbers by size, before words by letters."""
    try:
        x = float(label)
    except ValueError:
        return (1, 0.0, label)
    return (0, x, label) if isfinite(x) else (1, 0.0, label)
