"""A device that is only acted: tensors that say they are on another device, and compute on the CPU.

They fail where tensors of a real device would: mixed with CPU tensors, read as NumPy arrays. Every copy to the host is
noted. So a machine without an accelerator can tell whether code keeps to the device of its input.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

#: A device that torch knows without a driver; the acted tensors have values, unlike those that are really there.
DEVICE = torch.device("meta")
CPU = torch.device("cpu")
DEFAULT_DTYPES = (torch.float16, torch.complex32)


class OnDevice(Tensor):
    """A tensor of the acted device around one on the CPU."""

    inner: Tensor
    is_meta = False

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        return Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
            requires_grad=False,
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {}, None)


class Watch(TorchDispatchMode):
    """Sees every operation: makes what is asked for on the acted device, and notes what should not be.

    Attributes:
        copies: (operation, entries) of what went to the host.
        defaults: operations that made a tensor of the default dtype.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[tuple[str, int]] = []
        self.defaults: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {}, self)


PLAIN_GENERATOR = torch.Generator


class AnyGenerator(type(PLAIN_GENERATOR)):  # type: ignore[misc]
    """So that generators made before the patch are instances of the patched class too."""

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, PLAIN_GENERATOR)


class ActedGenerator(PLAIN_GENERATOR, metaclass=AnyGenerator):
    """A generator that says on which device it is."""

    def __new__(cls, device=CPU):
        made = super().__new__(cls, CPU)
        made.said = torch.device(device)
        return made

    def __init__(self, device=CPU) -> None: ...

    @property
    def device(self):
        return self.said


class Literals(TorchFunctionMode):
    """Tensors made of Python numbers, which are built before any operation is seen."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, torch.asarray):
            if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == DEVICE.type:
                return OnDevice(func(*args, **{**kwargs, "device": CPU}))
        elif func is Tensor.new_tensor and isinstance(args[0], OnDevice):
            return OnDevice(torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)))
        return func(*args, **kwargs)


def run(func: Any, args: Any, kwargs: dict[str, Any], watch: Watch | None) -> Any:
    found: list[Tensor] = []
    tree_map(lambda t: found.append(t) if isinstance(t, Tensor) else None, (args, kwargs))
    acted = [t for t in found if isinstance(t, OnDevice)]
    asked = kwargs.get("device")
    if asked is None and not acted:
        return noted(func, func(*args, **kwargs), watch)
    to_device = bool(acted) if asked is None else torch.device(asked).type == DEVICE.type
    moving = "_to_copy" in str(func) or "copy_" in str(func)
    if acted and not moving:
        strangers = [t for t in found if not isinstance(t, OnDevice) and t.ndim > 0]
        if strangers:
            raise RuntimeError(f"{func}: a CPU tensor of shape {tuple(strangers[0].shape)} meets tensors of {DEVICE}")
    if acted and watch is not None:
        to_host = (moving and not isinstance(args[0], OnDevice)) or (asked is not None and not to_device)
        if to_host or "_local_scalar_dense" in str(func):
            watch.copies.append((str(func), max(t.numel() for t in acted)))
    if asked is not None and to_device:
        kwargs = {**kwargs, "device": CPU}
    plain_args, plain_kwargs = tree_map(lambda t: t.inner if isinstance(t, OnDevice) else t, (args, kwargs))
    result = func(*plain_args, **plain_kwargs)
    if str(func).split(".")[1].endswith("_") and not str(func).split(".")[1].startswith("__"):
        return args[0]
    if "out" in kwargs and isinstance(kwargs["out"], Tensor):
        return kwargs["out"]
    noted(func, result, watch)
    return tree_map(lambda t: OnDevice(t) if isinstance(t, Tensor) else t, result) if to_device else result


def noted(func: Any, result: Any, watch: Watch | None) -> Any:
    if watch is not None:
        tree_map(
            lambda t: watch.defaults.append(str(func)) if isinstance(t, Tensor) and t.dtype in DEFAULT_DTYPES else None,
            result,
        )
    return result


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch everything inside, under a default dtype that nothing else has."""
    torch.Generator = ActedGenerator
    try:
        with default_dtype(DEFAULT_DTYPES[0]), Literals(), Watch() as watch:
            yield watch
    finally:
        torch.Generator = PLAIN_GENERATOR


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
