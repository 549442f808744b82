"""Resized parameters: layers of torch and transformers whose own parameters have other sizes than their model says.

The names are noted on the module, so that files and configurations say them, and a fresh model can be given such sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["resize_", "resized_shapes", "set_shapes_"]

NOTE = "resized_parameters"


def resize_(layer: Any, name: str, value: Tensor) -> None:
    """Give a layer a parameter of another size, and tell its attributes."""
    old = layer._parameters[name]
    layer._parameters[name] = nn.Parameter(value, requires_grad=old.requires_grad)
    setattr(layer, NOTE, tuple(sorted({*getattr(layer, NOTE, ()), name})))
    if name != "weight" or value.ndim != 2:
        return
    rows, columns = value.shape
    known = {"in_features": columns, "out_features": rows, "embedding_dim": columns, "nx": rows, "nf": columns}
    for attribute, size in known.items():
        if hasattr(layer, attribute):
            setattr(layer, attribute, size)


def resized_shapes(model: nn.Module) -> dict[str, list[int]]:
    """The sizes of resized parameters by their names."""
    return {
        f"{name}.{key}" if name else key: list(getattr(module, key).shape)
        for name, module in model.named_modules()
        for key in getattr(module, NOTE, ())
    }


def set_shapes_(model: nn.Module, shapes: Mapping[str, list[int]]) -> None:
    """Give parameters these sizes, without values; those that were one stay one."""
    made: dict[int, Tensor] = {}
    for name, shape in shapes.items():
        parent, _, key = name.rpartition(".")
        layer = model.get_submodule(parent)
        old = getattr(layer, key)
        if tuple(old.shape) != tuple(shape):
            value = made.setdefault(id(old), torch.zeros(shape, dtype=old.dtype, device=old.device))
            resize_(layer, key, value)
