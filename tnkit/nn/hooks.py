"""Hooks: those that are there for a while, and what else a module carries beside its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.utils.hooks import RemovableHandle

__all__ = ["carry_over", "hooked"]

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def carry_over(old: nn.Module, new: nn.Module) -> nn.Module:
    """`new` with the mode, the hooks and the further public attributes of `old`."""
    new.train(old.training)
    for name in HOOKS:
        if hasattr(old, name):
            setattr(new, name, copy.copy(getattr(old, name)))
    for name, value in old.__dict__.items():
        if not name.startswith("_") and not hasattr(new, name):
            setattr(new, name, value)
    return new


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks that have been registered stay for the time of the block, however it ends.

    Example:
        >>> import torch
        >>> layer, seen = torch.nn.Linear(2, 2), []
        >>> with hooked([layer.register_forward_hook(lambda *_: seen.append(1))]):
        ...     _ = layer(torch.ones(1, 2))
        >>> _ = layer(torch.ones(1, 2))
        >>> len(seen)
        1
    """
    held = list(handles)
    try:
        yield
    finally:
        for handle in held:
            handle.remove()
