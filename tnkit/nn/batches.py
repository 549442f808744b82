"""Batches: how one is given to a model, and what its outputs are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from tnkit.errors import DataError, OptionError

__all__ = ["attention_mask", "evaluating", "output_tensors", "require_batches", "run_batch"]


def require_batches(calib: Any, who: str) -> Iterable[Any]:
    """`calib` as an iterable of batches.

    Raises:
        OptionError: it is one batch, or nothing that can be iterated.
    """
    if isinstance(calib, Tensor | Mapping | str | bytes) or not isinstance(calib, Iterable):
        raise OptionError(
            f"{who}: calib is a {type(calib).__name__}; it must be an iterable of batches "
            "(a tensor, a tuple of arguments or a mapping of keyword arguments each). For one batch write "
            "calib=[batch]."
        )
    return calib


def run_batch(model: nn.Module, batch: Any, who: str = "calibrate") -> Any:
    """The model's output on a batch: a tensor, a tuple or list of arguments, or any Mapping of keyword arguments.

    Raises:
        DataError: the model does not take this batch.
    """
    args: tuple[Any, ...]
    if isinstance(batch, Mapping):
        args, kwargs = (), dict(batch)
    elif isinstance(batch, tuple | list):
        args, kwargs = tuple(batch), {}
    else:
        args, kwargs = (batch,), {}
    try:
        return model(*args, **kwargs)
    except (TypeError, RuntimeError, ValueError, IndexError) as error:
        given = ", ".join([*map(_described, args), *(f"{k}={_described(v)}" for k, v in kwargs.items())])
        raise DataError(
            f"{who}: the model raised {type(error).__name__} on a batch ({given}): {error}. A batch is a tensor, "
            "a tuple of positional arguments or a Mapping of keyword arguments of the model, on the model's device."
        ) from error


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"Tensor{tuple(value.shape)} {value.dtype} {value.device}"
    return type(value).__name__


def attention_mask(batch: Any) -> Tensor | None:
    """The (batch, length) mask of a Mapping batch, True where a token counts."""
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    return mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None


def output_tensors(output: Any) -> list[Tensor]:
    """The floating-point tensors in an output, whatever holds them."""
    if isinstance(output, Mapping):
        output = dict(output)
    return [t for t in _pytree.tree_leaves(output) if isinstance(t, Tensor) and t.dtype.is_floating_point]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode without gradients; each module's mode is put back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
