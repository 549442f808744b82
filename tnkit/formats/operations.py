"""The operations on formats; what fills them stands in `generic.py`, `rounding.py`, `io.py` and beside the formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from tnkit.formats.operation import Operation

if TYPE_CHECKING:
    from tnkit.formats.base import Format
    from tnkit.formats.network import Network

__all__ = [
    "add",
    "at",
    "getitem",
    "inner",
    "matmul",
    "multiply",
    "norm",
    "orthogonalize",
    "round",
    "save",
    "scale",
    "shift",
    "sum",
    "tensorized",
    "to_network",
]

to_network: Operation[Network] = Operation("to_network")
tensorized: Operation[Format] = Operation("tensorized")
save: Operation[None] = Operation("save")
at: Operation[Tensor] = Operation("at")
getitem: Operation[Any] = Operation("getitem")
sum: Operation[Any] = Operation("sum")
scale: Operation[Format] = Operation("scale")
shift: Operation[Format] = Operation("shift")
add: Operation[Format] = Operation("add", arity=2)
multiply: Operation[Format] = Operation("multiply", arity=2)
matmul: Operation[Any] = Operation("matmul", arity=2)
inner: Operation[Tensor] = Operation("inner", arity=2)
norm: Operation[Tensor] = Operation("norm")
round: Operation[Format] = Operation("round")
orthogonalize: Operation[Format] = Operation("orthogonalize")
