"""From what a user writes for `format` to a spec."""

from __future__ import annotations

from tnkit.errors import OptionError
from tnkit.formats.layout import FormatSpec
from tnkit.formats.network import EquationSpec
from tnkit.network import Topology
from tnkit.registry import FORMATS

__all__ = ["as_spec"]


def as_spec(format: str | FormatSpec | Topology) -> FormatSpec:
    """A spec from a name, an equation, a Topology or a spec.

    Raises:
        UnknownNameError: a name that is not registered; the message gives the nearest one.
        EquationError: an equation that cannot be read.
        OptionError: something else.

    Example:
        >>> as_spec("tt"), as_spec("ia,aj->ij").layout((4, 5)).bonds
        (TTSpec(), ('a',))
    """
    if isinstance(format, FormatSpec):
        return format
    if isinstance(format, Topology):
        return EquationSpec(format)
    if isinstance(format, str):
        if "->" in format or "," in format:
            return EquationSpec(Topology.parse(format))
        spec: FormatSpec = FORMATS.get(format)
        return spec
    raise OptionError(
        f"format={format!r} is not known. Give a name such as 'tt', a spec such as TTSpec(), or an equation."
    )
