"""nn.MultiheadAttention reads the weight of its `out_proj` and never calls it: how its input is seen all the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from tnkit.nn.opening.attention import OpenAttention

__all__ = ["owners", "projection_input"]


def owners(model: nn.Module) -> dict[int, nn.MultiheadAttention]:
    """The closed attention module by the id of its `out_proj`."""
    found = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention) and not isinstance(m, OpenAttention)]
    return {id(m.out_proj): m for m in found}


def projection_input(attention: nn.MultiheadAttention, args: Any, kwargs: Any) -> Tensor:
    """What `out_proj` would be given: the attention's output with an identity in its place for the time.

    Args:
        attention: the module; as it was when this returns.
        args: positional arguments of its forward.
        kwargs: keyword arguments of its forward.
    """
    real = attention.out_proj
    weight = real.weight
    identity = skip_init(nn.Linear, real.in_features, real.out_features, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        nn.init.eye_(identity.weight)
        nn.init.zeros_(identity.bias)
    try:
        attention._modules["out_proj"] = identity
        found: Tensor = attention.forward(*args, **kwargs)[0]
    finally:
        attention._modules["out_proj"] = real
    return found
