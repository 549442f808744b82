"""Turn: a small product at the entry of a block, from the stream of the block before it to the block's own.

It is a child of the block, named `turn`, and acts before the block's own code by a hook, so that this code does not
change, and files hold its weight under the block's name.

Reference: Ashkboos et al., SliceGPT, arXiv 2401.15024 (the product Q_{l-1}ᵀ Q_l on a shortcut).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tnkit.errors import DataError

__all__ = ["NAME", "Turn", "put_turns_", "turn_", "turns_of"]

NAME = "turn"


class Turn(nn.Module):
    """x ← x Wᵀ along the last axis.

    Attributes:
        weight: (out, in).

    Example:
        >>> import torch
        >>> from tnkit.nn.turn import Turn
        >>> Turn(torch.eye(2, 3))(torch.tensor([1.0, 2.0, 3.0])).tolist()
        [1.0, 2.0]
    """

    def __init__(self, weight: Tensor) -> None:
        """A product by this matrix."""
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        return nn.functional.linear(x, self.weight)


def turn_(block: nn.Module, weight: Tensor) -> nn.Module:
    """Give a block a turn, in place of the one that it may have."""
    there = hasattr(block, NAME)
    block.add_module(NAME, Turn(weight))
    if not there:
        block.register_forward_pre_hook(_turned, with_kwargs=True)
    return block


def turns_of(model: nn.Module) -> dict[str, list[int]]:
    """Sizes of the turns by the names of their blocks.

    Example:
        >>> import torch
        >>> from tnkit.nn.turn import turn_, turns_of
        >>> turns_of(torch.nn.Sequential(turn_(torch.nn.Identity(), torch.eye(2, 3))))
        {'0': [2, 3]}
    """
    found = {name: getattr(m, NAME, None) for name, m in model.named_modules()}
    return {name: list(turn.weight.shape) for name, turn in found.items() if isinstance(turn, Turn)}


def put_turns_(model: nn.Module, turns: Mapping[str, list[int]]) -> nn.Module:
    """Turns of zeros of these sizes, for values that are about to be read."""
    for name, shape in turns.items():
        block = model.get_submodule(name)
        like = next(block.parameters())
        turn_(block, torch.zeros(shape, dtype=like.dtype, device=like.device))
    return model


def _turned(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The block's arguments with its first floating-point tensor turned."""
    turn: Any = getattr(block, NAME)
    for k, value in enumerate(args):
        if isinstance(value, Tensor) and value.is_floating_point():
            return (*args[:k], turn(value), *args[k + 1 :]), kwargs
    for key, value in kwargs.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            return args, {**kwargs, key: turn(value)}
    raise DataError(f"A {type(block).__name__} with a turn was called without a floating-point tensor.")
