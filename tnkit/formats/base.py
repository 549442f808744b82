"""Format: a tensor kept as a small network of tensors. A concrete one says its tensors and graph; the rest is here.

Example:
    >>> import torch
    >>> from tnkit.formats import TT
    >>> tt = TT.from_cores([torch.ones(1, 4, 2), torch.ones(2, 5, 1)])
    >>> tt.shape, tt.ranks, tt.n_params, tt.to_dense()[0, 0].item()
    ((4, 5), (2,), 18, 2.0)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from math import prod
from operator import index
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree

from tnkit.arrays import HALF, check_dense_size, to_numpy
from tnkit.errors import ShapeError
from tnkit.formats import operations
from tnkit.network import Topology, contract
from tnkit.network.plan import constant, contract_key
from tnkit.network.topology import TopologyKey
from tnkit.registry import Registry
from tnkit.tensorize import Tensorization

if TYPE_CHECKING:
    from tnkit.formats.network import Network

__all__ = ["FORMAT_CLASSES", "Format", "as_format"]

#: Format classes by their name, for loading.
FORMAT_CLASSES: Registry[type[Format]] = Registry("stored format")

F = TypeVar("F", bound="type[Format]")


class Format(ABC):
    """A tensor as a network. Values are immutable; operations give new ones.

    Concrete formats are final frozen dataclasses, and torch pytrees whose leaves are their tensors: `torch.func.grad`,
    `torch.vmap` and `torch.compile` work on them. They are validated in their factories, never on unflattening.
    """

    __slots__ = ()
    __array_ufunc__: ClassVar[None] = None  # so that NumPy numbers leave products to us, and do not make arrays of them
    name: ClassVar[str]

    @abstractmethod
    def topology(self) -> Topology:
        """The graph; its open labels are the modes."""

    @abstractmethod
    def bonds(self) -> tuple[str, ...]:
        """The labels whose sizes are the ranks."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Sequence[Tensor], **static: Any) -> Self:
        """The format of these tensors, checked.

        Raises:
            ShapeError: they do not fit together.
        """

    def view(self) -> Tensorization | None:
        """How the user's array was reshaped to what the network holds; None if it was not."""
        return None

    # --- parts -----------------------------------------------------------------------------------------------------

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that are stored, in the order of `topology().parameters`."""
        found: list[Tensor] = []
        for value in _values(self):
            if isinstance(value, Tensor):
                found.append(value)
            elif _is_group(value):
                found.extend(value)
            elif isinstance(value, Format):
                found.extend(value.tensors())
        return tuple(found)

    def static(self) -> dict[str, Any]:
        """What is stored beside the tensors."""
        return {
            f.name: value
            for f, value in zip(fields(self), _values(self), strict=True)  # type: ignore[arg-type]
            if f.metadata.get("static", False)
        }

    def with_tensors(self, tensors: Sequence[Tensor]) -> Self:
        """The same structure with other tensors, one for each of `tensors()`; not checked."""
        left = list(tensors)
        changed: dict[str, Any] = {}
        for f, value in zip(fields(self), _values(self), strict=True):  # type: ignore[arg-type]
            if isinstance(value, Tensor):
                changed[f.name] = left.pop(0)
            elif _is_group(value):
                changed[f.name] = tuple(left.pop(0) for _ in value)
            elif isinstance(value, Format):
                n = len(value.tensors())
                changed[f.name] = value.with_tensors(left[:n])
                left = left[n:]
        return replace(self, **changed)  # type: ignore[type-var]

    # --- derived ---------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the dense tensor."""
        plan = self.view()
        return self.inner_shape if plan is None else plan.shape

    @property
    def inner_shape(self) -> tuple[int, ...]:
        """The shape of the open labels of the network (another than `shape` only where the array was reshaped)."""
        topology = self.topology()
        sizes = topology.sizes([t.shape for t in self.tensors()])
        return tuple(sizes[label] for label in topology.output)

    @property
    def ndim(self) -> int:
        """The number of modes."""
        return len(self.shape)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The sizes of the bonds."""
        sizes = self.topology().sizes([t.shape for t in self.tensors()])
        return tuple(sizes[label] for label in self.bonds())

    @property
    def n_params(self) -> int:
        """Stored real numbers (a complex number is two)."""
        return sum(t.numel() * (2 if t.is_complex() else 1) for t in self.tensors())

    @property
    def nbytes(self) -> int:
        """Bytes of the stored tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tensors (the widest, if they differ)."""
        dtype = self.tensors()[0].dtype
        for t in self.tensors()[1:]:
            dtype = torch.promote_types(dtype, t.dtype)
        return dtype

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.tensors()[0].device

    @property
    def compression_ratio(self) -> float:
        """Real numbers of the dense tensor over those that are stored; above 1 means smaller."""
        return prod(self.shape) * (2 if self.dtype.is_complex else 1) / max(1, self.n_params)

    # --- values ----------------------------------------------------------------------------------------------------

    def to_dense(self) -> Tensor:
        """The dense tensor, of the user's shape.

        Raises:
            MemoryLimitError: it would not fit; nothing was allocated.
        """
        dtype, tensors = self.dtype, self.tensors()
        wide = HALF.get(dtype, dtype)
        operands = [t.to(wide) for t in tensors]
        if torch.compiler.is_compiling():
            dense = contract_key(traced_topology(self), operands)
        else:
            check_dense_size(self.shape, dtype, self.device, what=f"The dense tensor of this {self.name}")
            dense = contract(self.topology(), operands)
        plan = self.view()
        dense = dense if dtype == wide else dense.to(dtype)
        return dense if plan is None else plan.invert(dense)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """The dense tensor as a NumPy array, for `np.asarray`."""
        if copy is False:
            raise ValueError(f"A {self.name} has no dense array to share; np.asarray(x) makes one.")
        dense = to_numpy(self.to_dense())
        return dense if dtype is None else dense.astype(dtype)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same with its tensors on another device or of another dtype, as `Tensor.to`."""
        return self.with_tensors([t.to(*args, **kwargs) for t in self.tensors()])

    def detach(self) -> Self:
        """The same without its history of gradients."""
        return self.with_tensors([t.detach() for t in self.tensors()])

    def clone(self) -> Self:
        """A copy with memory of its own."""
        return self.with_tensors([t.clone() for t in self.tensors()])

    def requires_grad(self, flag: bool = True) -> Self:
        """A copy whose tensors are leaves that collect gradients."""
        return self.with_tensors([t.detach().clone().requires_grad_(flag) for t in self.tensors()])

    def to_network(self) -> Network:
        """The same as the generic format; of a reshaped array, the network of the reshaped one."""
        return operations.to_network(self)

    def tensorized(self, plan: Tensorization) -> Format:
        """This network, read as the array of shape `plan.shape` that `plan` turns into it."""
        return self if plan.is_identity else operations.tensorized(self, plan)

    def save(self, path: str | PathLike[str]) -> None:
        """Write to a safetensors file (see `tnkit.save`)."""
        operations.save(self, path)

    # --- operations ------------------------------------------------------------------------------------------------

    def at(self, indices: Any) -> Tensor:
        """Entries at (N, ndim) indices, without the dense tensor; negative ones count from the end."""
        return operations.at(self, indices)

    def norm(self) -> Tensor:
        """The Frobenius norm, a 0-d tensor."""
        return operations.norm(self)

    def inner(self, other: Format) -> Tensor:
        """The inner product; this one conjugated."""
        return operations.inner(self, other)

    def round(self, rank: Any = None, *, eps: float | None = None) -> Format:
        """The same tensor, nearly, with smaller ranks (see `tnkit.round`)."""
        return operations.round(self, rank, eps=eps)

    def sum(self, modes: int | Sequence[int] | None = None) -> Any:
        """The sum over modes (all by default): a format, or a 0-d tensor if no mode is left."""
        return operations.sum(self, modes)

    def mean(self, modes: int | Sequence[int] | None = None) -> Any:
        """The mean over modes (all by default): a format, or a 0-d tensor if no mode is left."""
        total = operations.sum(self, modes)
        return total * (prod(total.shape) / prod(self.shape))

    def __getitem__(self, key: Any) -> Any:
        """Slices, integers, None and `...` as in NumPy: a format, or a 0-d tensor if no mode is left."""
        return operations.getitem(self, key)

    def __add__(self, other: Any) -> Format:
        """Sum with a format of equal shape, or with a number for every entry; ranks add (a number has rank 1)."""
        if isinstance(other, Format):
            return operations.add(self, other)
        return operations.shift(self, other) if _is_number(other) else NotImplemented

    def __radd__(self, other: Any) -> Format:
        """Sum with a number."""
        return operations.shift(self, other) if _is_number(other) else NotImplemented

    def __sub__(self, other: Any) -> Format:
        """Difference with a format of equal shape or a number; ranks add."""
        if isinstance(other, Format):
            return operations.add(self, operations.scale(other, -1))
        return operations.shift(self, -other) if _is_number(other) else NotImplemented

    def __rsub__(self, other: Any) -> Format:
        """A number minus the format."""
        return operations.shift(operations.scale(self, -1), other) if _is_number(other) else NotImplemented

    def __mul__(self, other: Any) -> Format:
        """Product with a number, or elementwise with a format of equal shape (ranks multiply)."""
        if isinstance(other, Format):
            return operations.multiply(self, other)
        return operations.scale(self, other) if _is_number(other) else NotImplemented

    def __rmul__(self, other: Any) -> Format:
        """Product with a number."""
        return operations.scale(self, other) if _is_number(other) else NotImplemented

    def __truediv__(self, other: Any) -> Format:
        """Quotient by a number."""
        return operations.scale(self, 1 / other) if _is_number(other) else NotImplemented

    def __neg__(self) -> Format:
        """The negative."""
        return operations.scale(self, -1)

    def __matmul__(self, other: Any) -> Any:
        """Contract the last mode with the first of `other`: a format gives a format, a dense tensor a dense one."""
        if isinstance(other, Format | Tensor | np.ndarray):
            return operations.matmul(self, other)
        return NotImplemented

    def __repr__(self) -> str:
        """Name, shape, ranks, size and dtype on one line."""
        try:
            ranks = ", ".join(map(str, self.ranks))
            size = f"{self.n_params:,} numbers, {self.compression_ratio:,.3g}x smaller"
            return f"{type(self).__name__}(shape={self.shape}, ranks=({ranks}), {size}, {self.dtype}, {self.device})"
        except (AttributeError, TypeError, ValueError):
            return f"{type(self).__name__}(of other leaves)"


def _values(value: Format) -> list[Any]:
    return [getattr(value, f.name) for f in fields(value)]  # type: ignore[arg-type]


def _signature(value: Format) -> tuple[str, tuple[Any, ...]]:
    """The class and what its topology depends on, in plain values: shapes, and what is stored beside the tensors."""
    parts: list[Any] = []
    for part in _values(value):
        if isinstance(part, Format):
            return _signature(part)
        if isinstance(part, Tensor):
            parts.append(("tensor", _plain_shape(part)))
        elif _is_group(part):
            parts.append(("tensors", tuple([_plain_shape(t) for t in part])))
        elif isinstance(part, Topology):
            parts.append(("topology", part.key()))
        else:
            parts.append(("static", _plain(part)))
    return type(value).__name__, tuple(parts)


def traced_topology(value: Format) -> TopologyKey:
    """The topology, in plain values, where `torch.compile` is tracing; a constant of the compiled code."""
    return _topology_key(*_signature(value))


def _plain(value: Any) -> Any:
    """With whole numbers as constants: `torch.compile` would make variables of those that change between calls."""
    if isinstance(value, tuple):
        return tuple([_plain(v) for v in value])
    return index(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _plain_shape(t: Tensor) -> tuple[int, ...]:
    return tuple([index(n) for n in t.shape])


@constant
def _topology_key(name: str, parts: tuple[Any, ...]) -> TopologyKey:
    """The topology of the format with that signature."""
    empty = partial(torch.empty, device="meta")
    read: dict[str, Callable[[Any], Any]] = {
        "tensor": empty,
        "tensors": lambda shapes: tuple(empty(shape) for shape in shapes),
        "topology": Topology.from_key,
        "static": lambda part: part,
    }
    value: Format = FORMAT_CLASSES.get(name)(*(read[kind](part) for kind, part in parts))
    return value.topology().key()


def _is_group(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(isinstance(v, Tensor) for v in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | complex | np.number) or (isinstance(value, Tensor) and value.ndim == 0)


def as_format(cls: F) -> F:
    """Class decorator: make a frozen dataclass a torch pytree and known to `load`."""
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    still = {f.name for f in fields(cls) if f.metadata.get("static", False)}  # type: ignore[arg-type]
    moving = [name for name in names if name not in still]
    fixed = [name for name in names if name in still]

    def flatten(value: Format) -> tuple[list[Any], Any]:
        return [getattr(value, n) for n in moving], tuple(getattr(value, n) for n in fixed)

    def flatten_with_keys(value: Format) -> tuple[list[tuple[Any, Any]], Any]:
        children, context = flatten(value)
        return [(_pytree.GetAttrKey(n), c) for n, c in zip(moving, children, strict=True)], context

    _pytree.register_pytree_node(
        cls,
        flatten,
        partial(_unflatten, cls, tuple(moving), tuple(fixed)),
        serialized_type_name=f"tnkit.{cls.__name__}",
        flatten_with_keys_fn=flatten_with_keys,
    )
    FORMAT_CLASSES.register(cls.__name__, cls)
    return cls


def _unflatten(cls: Any, moving: tuple[str, ...], fixed: tuple[str, ...], children: Any, context: Any) -> Any:
    return cls(**dict(zip(moving, children, strict=True)), **dict(zip(fixed, context, strict=True)))


def require_axes(t: Any, ndim: int, what: str) -> Tensor:
    """`t` as a tensor of `ndim` axes.

    Raises:
        ShapeError: it is no tensor, or has another number of axes, or an axis of size 0.
    """
    if not isinstance(t, Tensor):
        raise ShapeError(f"{what} must be a torch tensor, not {type(t).__name__}.")
    if t.ndim != ndim or 0 in t.shape:
        raise ShapeError(f"{what} must have {ndim} axes of size 1 or more; its shape is {tuple(t.shape)}.")
    return t


def require_network(value: Format) -> None:
    """Refuse tensors that do not fit the topology.

    Raises:
        ShapeError: sizes, dtypes or devices do not agree.
    """
    tensors = value.tensors()
    try:
        value.topology().sizes([t.shape for t in tensors])
    except ValueError as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
        raise ShapeError(f"{type(value).__name__} from tensors of shapes {shapes}: {error}") from None
    if len({t.device for t in tensors}) > 1:
        raise ShapeError(
            f"{type(value).__name__}: tensors stand on several devices: {sorted({str(t.device) for t in tensors})}."
        )
