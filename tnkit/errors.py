"""The exceptions of tnkit: every one derives from `TnkitError` and from the builtin a Python user expects.

A message says who, what was asked, what was seen, what is allowed, and what to do.

Example:
    >>> from tnkit.errors import RankError, TnkitError
    >>> issubclass(RankError, TnkitError) and issubclass(RankError, ValueError)
    True
"""

__all__ = [
    "BudgetError",
    "DTypeError",
    "DataError",
    "EquationError",
    "FileFormatError",
    "MaskError",
    "MemoryLimitError",
    "MissingExtraError",
    "OptionError",
    "RankError",
    "ShapeError",
    "TnkitError",
    "TnkitWarning",
    "UnknownNameError",
]


class TnkitError(Exception):
    """Base of every exception that tnkit raises on purpose."""


class ShapeError(TnkitError, ValueError):
    """Shapes that do not fit together, or that the asked format does not take."""


class RankError(TnkitError, ValueError):
    """A rank that is not a positive integer, does not fit the shape, or has the wrong number of entries."""


class DataError(TnkitError, ValueError):
    """Data that no decomposition exists for: NaN or infinite values, empty arrays, scalars."""


class OptionError(TnkitError, ValueError):
    """An option out of its range, or options that contradict each other."""


class EquationError(TnkitError, ValueError):
    """An equation that cannot be read, or whose labels do not fit the tensors."""


class BudgetError(TnkitError, ValueError):
    """A size budget that nothing can meet, or that does not apply here."""


class MaskError(TnkitError, ValueError):
    """A mask of another shape or kind, or one under which nothing is observed."""


class DTypeError(TnkitError, TypeError):
    """Values of a type that is not a number, or a number type that is not supported."""


class UnknownNameError(TnkitError, KeyError):
    """A name that no registry knows; the message gives the nearest one."""

    def __str__(self) -> str:
        """The message as it was written (KeyError alone would put it in quotes)."""
        return str(self.args[0]) if self.args else ""


class FileFormatError(TnkitError, ValueError):
    """A file that is no tensor, is cut short, or was written by something else."""


class MissingExtraError(TnkitError, ImportError):
    """An optional package is needed; the message says which extra installs it."""


class MemoryLimitError(TnkitError, MemoryError):
    """A dense result that would not fit the machine's memory; it was not tried."""


class TnkitWarning(UserWarning):
    """Something that the caller should know, though the result stands."""
