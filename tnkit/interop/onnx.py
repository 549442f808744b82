"""ONNX: a compressed model as a file for onnxruntime and others; the numbers are compared before the file is kept.

Example:
    >>> import os, tempfile, torch, tnkit as tk
    >>> from tnkit.interop.onnx import export_onnx, run_onnx
    >>> small, _ = tk.nn.compress(torch.nn.Sequential(torch.nn.Linear(16, 16)), tk.Budget(params=0.5))
    >>> path = export_onnx(small, torch.ones(3, 16), os.path.join(tempfile.mkdtemp(), "small.onnx"))
    >>> bool(abs(run_onnx(path, torch.ones(5, 16))[0] - small(torch.ones(5, 16)).detach().numpy()).max() < 1e-5)
    True
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tnkit.errors import DataError, MissingExtraError
from tnkit.files import replacing
from tnkit.nn.batches import evaluating, output_tensors, run_batch

try:
    import onnx  # noqa: F401 (torch's exporter needs it)
    import onnxruntime
    import onnxscript  # noqa: F401 (likewise)
except ImportError as error:
    raise MissingExtraError("ONNX needs more packages. Install them with: pip install 'tnkit[onnx]'.") from error

__all__ = ["export_onnx", "run_onnx"]


def export_onnx(
    model: nn.Module,
    batch: Any,
    path: str | PathLike[str],
    *,
    dynamic_batch: bool = True,
    max_difference: float = 1e-3,
) -> Path:
    """Write a model as ONNX, with its factors as they are, and check that onnxruntime gives the same numbers.

    Args:
        model: compressed or not; it is not changed.
        batch: an example, as in `compress`: a tensor, a tuple of arguments or a Mapping of keyword arguments.
        path: of the file; an old one is replaced only by one that was checked.
        dynamic_batch: whether the first mode of every input may have any size.
        max_difference: of an output, relative to its largest entry.

    Returns:
        The path.

    Raises:
        DataError: the model does not take the batch, or cannot be exported, or the numbers differ.
        FileFormatError: the file cannot be written.
    """
    args, kwargs = _arguments(batch)
    with evaluating(model):
        wanted = [t.numpy(force=True) for t in output_tensors(run_batch(model, batch, "export_onnx"))]
        with replacing(path) as temporary:
            _program(model, args, kwargs, dynamic=dynamic_batch).save(temporary, external_data=False)
            _compare(temporary, batch, wanted, max_difference)
    return Path(path)


def run_onnx(path: str | PathLike[str], batch: Any) -> list[Any]:
    """The outputs of an ONNX file by onnxruntime on the CPU, as NumPy arrays.

    Args:
        path: of the file.
        batch: as in `export_onnx`; keyword arguments go by name.
    """
    session = onnxruntime.InferenceSession(Path(path), providers=["CPUExecutionProvider"])
    args, kwargs = _arguments(batch)
    names = [node.name for node in session.get_inputs()]
    given = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
    found: list[Any] = session.run(None, {name: value.numpy(force=True) for name, value in given.items()})
    return found


def _arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch) if isinstance(batch, tuple | list) else (batch,)), {}


def _program(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, dynamic: bool) -> Any:
    """Torch's ONNX program."""
    free = torch.export.Dim.DYNAMIC
    shapes: Any = None
    if dynamic:
        first = {name: {0: free} if isinstance(x, Tensor) else None for name, x in kwargs.items()}
        shapes = first if kwargs else tuple({0: free} if isinstance(x, Tensor) else None for x in args)
    options: dict[str, Any] = {"dynamo": True, "verbose": False, "dynamic_shapes": shapes}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            return torch.onnx.export(model, args, kwargs=kwargs, **options)
    except Exception as error:
        raise DataError(
            f"export_onnx: torch cannot export this {type(model).__name__} ({str(error).splitlines()[0]}). "
            "Try dynamic_batch=False, or export its materialized copy: tk.nn.materialize(model)."
        ) from error


def _compare(path: Path, batch: Any, wanted: list[Any], most: float) -> None:
    found = [y for y in run_onnx(path, batch) if y.dtype.kind == "f"]
    if [y.shape for y in found] != [y.shape for y in wanted]:
        raise DataError(
            f"export_onnx: the file gives outputs of shapes {[y.shape for y in found]}, "
            f"the model {[y.shape for y in wanted]}. Give a model whose outputs are tensors."
        )
    for mine, theirs in zip(found, wanted, strict=True):
        worst, scale = float(abs(mine - theirs).max(initial=0.0)), float(abs(theirs).max(initial=0.0))
        if worst > most * max(scale, 1e-30):
            raise DataError(
                f"export_onnx: onnxruntime differs from the model by {worst:.3g} where the largest entry is "
                f"{scale:.3g}, more than max_difference={most}. Nothing was written."
            )
