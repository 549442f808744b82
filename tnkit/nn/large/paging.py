"""Paging: a model without values whose modules read their parameters from files when they are called, and forget them.

At any time only the parameters of the module that runs are in memory. It is slow, and it is for calibration.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from tnkit.nn.hooks import hooked
from tnkit.nn.large.tensor_files import TensorFiles

__all__ = ["fill_", "forget_", "paged"]


def fill_(name: str, layer: nn.Module, files: TensorFiles, names: dict[str, str]) -> dict[str, nn.Parameter]:
    """Read a layer's own parameters and buffers that have no values; what was there before, for `forget_`."""
    before: dict[str, Any] = {}
    for key, value in (*layer._parameters.items(), *layer._buffers.items()):
        if value is None or not value.is_meta:
            continue
        full = f"{name}.{key}" if name else key
        tensor = files.read(names.get(full, full))
        before[key] = value
        if key in layer._parameters:
            layer._parameters[key] = nn.Parameter(tensor, requires_grad=False)
        else:
            layer._buffers[key] = tensor
    return before


def forget_(layer: nn.Module, before: dict[str, Any]) -> None:
    """Put back what `fill_` replaced."""
    for key, value in before.items():
        (layer._parameters if key in layer._parameters else layer._buffers)[key] = value


@contextmanager
def paged(model: nn.Module, files: TensorFiles, names: dict[str, str]) -> Iterator[nn.Module]:
    """The model, which can be called in the block though its parameters are on the meta device.

    Args:
        model: with parameters on the meta device; other tensors in it have values.
        files: where they are.
        names: of tensors in the files, for tied parameters and other names that differ.
    """
    taken: dict[int, dict[str, Any]] = {}

    def before(name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            taken[id(module)] = fill_(name, module, files, names)

        return hook

    def after(module: nn.Module, args: Any, output: Any) -> None:
        forget_(module, taken.pop(id(module), {}))

    handles: list[Any] = []
    for name, module in model.named_modules():
        if module._parameters or module._buffers:
            handles.append(module.register_forward_pre_hook(before(name), prepend=True))
            handles.append(module.register_forward_hook(after, always_call=True))
    with hooked(handles):
        yield model
