"""tensorly: its CP, Tucker, TT, ring and TT-matrix objects, both ways.

The global backend of tensorly is never switched: an object holds NumPy arrays or torch tensors, as asked.

Example:
    >>> from tnkit.formats import random_format
    >>> from tnkit.interop.tensorly import from_tensorly, to_tensorly
    >>> tt = random_format("tt", (4, 5, 6), rank=2, rng=0)
    >>> there = to_tensorly(tt)
    >>> type(there).__name__, from_tensorly(there).ranks
    ('TTTensor', (2, 2))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tnkit.errors import DTypeError, MissingExtraError, OptionError
from tnkit.formats import CP, TT, Format, TensorRing, TTMatrix, Tucker
from tnkit.interop._arrays import incoming, outgoing

try:
    import tensorly
    from tensorly.cp_tensor import CPTensor
    from tensorly.tr_tensor import TRTensor
    from tensorly.tt_matrix import TTMatrix as TensorlyTTMatrix
    from tensorly.tt_tensor import TTTensor
    from tensorly.tucker_tensor import TuckerTensor
except ImportError as error:
    raise MissingExtraError("tensorly is not installed. Install it with: pip install 'tnkit[interop]'.") from error

__all__ = ["from_tensorly", "to_tensorly"]


def to_tensorly(value: Format, *, backend: str | None = None) -> Any:
    """The tensorly object of a format.

    Args:
        value: a CP, Tucker, TT, TensorRing, or TTMatrix in the interleaved order.
        backend: what the object holds: "numpy" or "pytorch"; by default what tensorly's own backend is at the moment.

    Returns:
        CPTensor, TuckerTensor, TTTensor, TRTensor or TTMatrix. A NumPy object has memory of its own; a pytorch one
        shares it with `value`, so gradients flow.

    Raises:
        DTypeError: tensorly has no such format.
        OptionError: another backend, or a TTMatrix in the split order.

    Example:
        >>> from tnkit.formats import random_format
        >>> to_tensorly(random_format("cp", (4, 5), rank=3, rng=0), backend="pytorch").rank
        3
    """
    if type(value) not in _TO:
        raise DTypeError(
            f"tensorly has no format for a {type(value).__name__}. It has: CP, Tucker, TT, TensorRing, TTMatrix. "
            "Of a Tensorized, convert its .format; of anything else, decompose .to_dense() in one of these."
        )
    wanted = tensorly.get_backend() if backend is None else {"torch": "pytorch"}.get(backend, backend)
    if wanted not in ("numpy", "pytorch"):
        raise OptionError(f"backend={wanted!r} of tensorly is not supported. Give backend='numpy' or 'pytorch'.")
    there = _TO[type(value)](value, list(value.tensors()))  # its constructor looks at shapes only, and takes tensors
    if wanted == "numpy":
        for name in ("weights", "core"):
            if isinstance(getattr(there, name, None), torch.Tensor):
                setattr(there, name, outgoing(getattr(there, name), wanted))
        there.factors = [outgoing(t, wanted) for t in there.factors]
    return there


def from_tensorly(value: Any) -> Format:
    """The format of a tensorly object; whatever its backend is.

    Args:
        value: a CPTensor, TuckerTensor, TTTensor, TRTensor or TTMatrix; torch tensors inside keep device and gradients.

    Raises:
        DTypeError: another kind of object.
        ShapeError: its parts do not fit together.

    Example:
        >>> import numpy as np
        >>> from tensorly.tucker_tensor import TuckerTensor
        >>> from_tensorly(TuckerTensor((np.ones((2, 2)), [np.ones((4, 2)), np.ones((5, 2))]))).shape
        (4, 5)
    """
    for kind, read in _FROM.items():
        if isinstance(value, kind):
            return read(value)
    raise DTypeError(
        f"from_tensorly takes a CPTensor, TuckerTensor, TTTensor, TRTensor or TTMatrix, not {type(value).__name__}."
    )


def _to_matrix(value: Any, parts: list[Any]) -> Any:
    if value.order != "interleaved":
        raise OptionError("tensorly's TTMatrix is interleaved. Give a TTMatrix with order='interleaved', not 'split'.")
    return TensorlyTTMatrix(parts)


_TO: dict[type, Callable[[Any, list[Any]], Any]] = {
    CP: lambda value, parts: CPTensor((parts[0], parts[1:])),
    Tucker: lambda value, parts: TuckerTensor((parts[0], parts[1:])),
    TT: lambda value, parts: TTTensor(parts),
    TensorRing: lambda value, parts: TRTensor(parts),
    TTMatrix: _to_matrix,
}


def _from_cp(value: Any) -> Format:
    factors = [incoming(f, f"factor {k}") for k, f in enumerate(value.factors)]
    if value.weights is None:
        return CP.from_parts(torch.ones(value.rank, dtype=factors[0].dtype, device=factors[0].device), factors)
    return CP.from_parts(incoming(value.weights, "weights"), factors)


def _from_tucker(value: Any) -> Format:
    return Tucker.from_parts(
        incoming(value.core, "core"), [incoming(f, f"factor {k}") for k, f in enumerate(value.factors)]
    )


def _cores(value: Any) -> list[Any]:
    return [incoming(f, f"core {k}") for k, f in enumerate(value.factors)]


_FROM: dict[type, Callable[[Any], Format]] = {
    CPTensor: _from_cp,
    TuckerTensor: _from_tucker,
    TTTensor: lambda value: TT.from_cores(_cores(value)),
    TRTensor: lambda value: TensorRing.from_cores(_cores(value)),
    TensorlyTTMatrix: lambda value: TTMatrix.from_cores(_cores(value)),
}
