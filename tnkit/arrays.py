"""The boundary to other arrays: NumPy, DLPack, nested lists and what `tnkit.interop` registers come in here only.

Inside, everything is a torch tensor of float32, float64, complex64 or complex128. Half types are computed in float32,
integers and booleans in float64. The caller's array is never changed; a dense answer goes back as the kind that came.

Example:
    >>> import numpy as np
    >>> from tnkit.arrays import as_tensor
    >>> incoming = as_tensor(np.ones((2, 3), dtype=np.float32))
    >>> incoming.tensor.dtype, type(incoming.back(incoming.tensor)).__name__
    (torch.float32, 'ndarray')
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from tnkit.errors import DataError, DTypeError, MemoryLimitError
from tnkit.registry import Registry

__all__ = [
    "ARRAY_KINDS",
    "ArrayLike",
    "Incoming",
    "as_tensor",
    "check_dense_size",
    "engine_dtype",
    "machine_eps",
    "require_finite",
    "to_numpy",
]

ArrayLike: TypeAlias = Any

ENGINE_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
HALF = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.complex32: torch.complex64}

ArrayKind: TypeAlias = "Callable[[Any], tuple[Any, Callable[[Any], Any]] | None]"
#: Kinds of array that optional packages add: a function that gives (NumPy array or tensor, the way back) or None.
ARRAY_KINDS: Registry[ArrayKind] = Registry("array kind")


@dataclass(frozen=True, slots=True)
class Incoming:
    """An array as it came in.

    Attributes:
        tensor: the values, in an engine dtype, sharing memory with the caller's array where possible.
        back: turns a tensor of any shape into the caller's kind of array and, for floats, its dtype.
        dtype: the dtype that the caller's array had (as torch names it).
    """

    tensor: Tensor
    back: Callable[[Tensor], Any]
    dtype: torch.dtype


def engine_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values of `dtype` are computed.

    Raises:
        DTypeError: for quantised and other types that are no numbers.
    """
    if dtype in ENGINE_DTYPES:
        return dtype
    if dtype in HALF:
        return HALF[dtype]
    if dtype == torch.bool or not (dtype.is_floating_point or dtype.is_complex):
        return torch.float64
    raise DTypeError(f"dtype {dtype} is not supported. Convert to float16, bfloat16, float32, float64 or complex.")


def machine_eps(dtype: torch.dtype) -> float:
    """The distance from 1 to the next larger number of the real type behind `dtype`."""
    return float(torch.finfo(dtype).eps)


def as_tensor(x: ArrayLike, *, name: str = "x") -> Incoming:
    """Bring any array in.

    Args:
        x: a torch tensor, a NumPy array, a DLPack object, nested lists of numbers, or a registered kind (xarray …).
        name: what messages call it.

    Raises:
        DTypeError: the values are no numbers.
        DataError: ragged lists, an empty array or a scalar.
    """
    raw, back = _raw(x, name)
    if raw.ndim == 0:
        raise DataError(f"{name} is a scalar (0-d). A tensor needs at least one mode; give an array.")
    if raw.numel() == 0:
        raise DataError(f"{name} of shape {tuple(raw.shape)} is empty. Give an array with at least one entry.")
    if raw.layout != torch.strided:
        raise DTypeError(
            f"{name} is a sparse tensor ({raw.layout}). Give a dense array, for example {name}.to_dense()."
        )
    if raw.is_quantized or raw.is_meta:
        raise DTypeError(f"{name} is a {'quantised' if raw.is_quantized else 'meta'} tensor and has no plain values.")
    return Incoming(raw.to(engine_dtype(raw.dtype)).resolve_conj().resolve_neg(), back, raw.dtype)


def _raw(x: Any, name: str) -> tuple[Tensor, Callable[[Tensor], Any]]:
    if isinstance(x, Tensor):
        return x, _back_to_torch(x.dtype)
    for kind in ARRAY_KINDS:
        found = ARRAY_KINDS.get(kind)(x)
        if found is not None:
            inner, wrap = found
            raw, back = _raw(inner, name)
            return raw, _then(back, wrap)
    if isinstance(x, np.ndarray):
        hidden = int(np.count_nonzero(x.mask)) if isinstance(x, np.ma.MaskedArray) else 0
        if hidden:
            raise DataError(
                f"{name} of shape {x.shape} has {hidden} masked entries. "
                f"Complete it with tk.complete({name}), or give {name}.filled(value)."
            )
        return _from_numpy(x, name), _back_to_numpy(x.dtype)
    if hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__"):
        raw = from_dlpack(x)
        return raw, _back_to_torch(raw.dtype)
    try:
        array = np.asarray(x)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{name} could not be read as an array ({error}). Give nested lists of equal lengths."
        ) from None
    return _from_numpy(array, name), _back_to_numpy(array.dtype)


def _then(first: Callable[[Tensor], Any], second: Callable[[Any], Any]) -> Callable[[Tensor], Any]:
    return lambda t: second(first(t))


def _from_numpy(array: np.ndarray[Any, Any], name: str) -> Tensor:
    if array.dtype.kind not in "biufc":
        raise DTypeError(
            f"{name} has dtype {array.dtype}, which is not numeric. Convert it, e.g. {name}.astype(float)."
        )
    plain = np.asarray(array)
    if plain.dtype.kind == "f" and plain.dtype.itemsize > 8:
        plain = plain.astype(np.float64)
    if plain.dtype.kind == "c" and plain.dtype.itemsize > 16:
        plain = plain.astype(np.complex128)
    if not plain.dtype.isnative:
        plain = plain.astype(plain.dtype.newbyteorder("="))
    if plain.dtype.kind == "u" and plain.dtype.itemsize > 1:
        plain = plain.astype(np.float64)
    if any(stride < 0 or stride % plain.itemsize for stride in plain.strides):
        plain = plain.copy()  # torch has no negative strides, nor any in parts of an entry
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ", category=UserWarning)
        return torch.from_numpy(plain)  # read-only memory is read only: nothing here writes to it


def _back_to_torch(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda t: t.to(dtype) if dtype in HALF and not (t.is_complex() and not dtype.is_complex) else t


def _back_to_numpy(dtype: np.dtype[Any]) -> Callable[[Tensor], np.ndarray[Any, Any]]:
    def back(t: Tensor) -> np.ndarray[Any, Any]:
        array = to_numpy(t)
        return array.astype(dtype) if dtype.kind == "f" and array.dtype.kind == "f" else array

    return back


def to_numpy(t: Tensor) -> np.ndarray[Any, Any]:
    """A NumPy array of the values, copied to the host if need be."""
    plain = t.detach().cpu().resolve_conj().resolve_neg()
    return plain.float().numpy() if plain.dtype == torch.bfloat16 else plain.numpy()


def require_finite(x: Tensor, *, name: str = "x") -> float:
    """The Frobenius norm of `x`, in one reading; 0.0 or inf where its square leaves the range of the dtype.

    Raises:
        DataError: `x` holds NaN or infinite values.
    """
    x = x.detach()
    norm = _norm(x.detach())
    if norm != norm or norm == float("inf"):
        bad = int((~torch.isfinite(x)).sum())
        if bad:
            raise DataError(
                f"{name} of shape {tuple(x.shape)} holds {bad} NaN or infinite value{'s' * (bad > 1)}. "
                f"Replace them, or use tk.complete({name}), which treats NaN as missing."
            )
    return norm


def _norm(x: Tensor) -> float:
    """The norm, added up in float64: a plain float32 sum over millions of entries is off by 1e-4."""
    if x.is_complex():  # norms of pairs of real numbers are much faster
        x = torch.view_as_real((x.conj() if x.is_conj() else x).resolve_neg())
    run = 64 if x.dtype == torch.float32 else 4096
    whole = x.numel() // run * run
    if (run == 4096 and x.dtype != torch.float64) or whole == 0 or not x.is_contiguous():
        return float(torch.linalg.vector_norm(x, dtype=torch.float64))
    flat = x.reshape(-1)
    parts = torch.linalg.vector_norm(flat[:whole].view(-1, run), dim=1)
    rest = torch.linalg.vector_norm(flat[whole:]).reshape(1)
    return float(torch.linalg.vector_norm(torch.cat([parts, rest]), dtype=torch.float64))


def check_dense_size(shape: Sequence[int], dtype: torch.dtype, device: torch.device, *, what: str) -> None:
    """Refuse a dense tensor that would not fit the memory that is free.

    Args:
        shape: of the dense tensor.
        dtype: of its entries.
        device: where it would be made.
        what: the words for it in the message.

    Raises:
        MemoryLimitError: it does not fit; nothing was allocated.
    """
    entries = 1
    for n in shape:
        entries *= int(n)
    needed = entries * dtype.itemsize
    if needed < 2**28:
        return
    free = _free_bytes(device)
    if free is not None and needed > free:
        raise MemoryLimitError(
            f"{what} of shape {tuple(shape)} would take {needed / 2**30:,.1f} GiB as {dtype}, and "
            f"{free / 2**30:,.1f} GiB are free. Ask for parts of it: slices, at(indices), or sums over modes."
        )


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None
