"""What a module carries beside its weights, for the one that takes its place."""

from __future__ import annotations

import copy

from torch import nn

__all__ = ["carry_over"]

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
