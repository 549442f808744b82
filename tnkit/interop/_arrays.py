"""Tensors to and from the arrays that other libraries hold."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tnkit.arrays import as_tensor, to_numpy
from tnkit.errors import OptionError

__all__ = ["incoming", "outgoing"]


def outgoing(t: Tensor, backend: str) -> Any:
    """The tensor itself ("torch", "pytorch"), or a NumPy array of its values ("numpy").

    Raises:
        OptionError: another backend.
    """
    if backend in ("torch", "pytorch"):
        return t
    if backend == "numpy":
        return to_numpy(t).copy()
    raise OptionError(f"backend={backend!r} is not known here. Use 'numpy' or 'torch'.")


def incoming(array: Any, name: str) -> Tensor:
    """A tensor of any array, in an engine dtype, with memory of its own where it is no torch tensor."""
    t = as_tensor(array, name=name).tensor
    return t if isinstance(array, Tensor) else t.clone()
