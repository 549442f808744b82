"""`tnkit info`: what a file holds."""

from __future__ import annotations

import json as _json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from tnkit.array_files import read_array
from tnkit.arrays import to_numpy
from tnkit.cli import options as o
from tnkit.cli.output import finish
from tnkit.errors import FileFormatError
from tnkit.files import KIND, read_safetensors, require_file
from tnkit.formats import Format, load
from tnkit.network import plan
from tnkit.nn.io import KEY as MODEL_KEY

__all__ = ["info"]


def info(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A file of tnkit, an array file, or an image.")],
    show_plan: Annotated[
        bool, typer.Option("--plan", help="Show how the network is contracted, step by step.", rich_help_panel=o.OUTPUT)
    ] = False,
    json: o.Json = False,
) -> None:
    """Say what a file holds: a network of tensors, a compressed model, or plain arrays.

    [dim]$[/] tnkit info cube.tn.safetensors
    [dim]$[/] tnkit info cube.npy --json
    """
    require_file(source)
    values, lines = _look(source, show_plan)
    head = f"{source} ({source.stat().st_size:,} bytes)"
    finish(
        {"file": str(source), "file_bytes": source.stat().st_size, **values}, "\n".join([head, *lines]), as_json=json
    )


def _look(source: Path, show_plan: bool) -> tuple[dict[str, Any], list[str]]:
    suffix = source.suffix.lower()
    if suffix == ".safetensors":
        tensors, metadata = read_safetensors(source)
        if metadata.get(KIND) == "format":
            return _format(load(source), show_plan)
        if MODEL_KEY in metadata:
            return _model(source, metadata[MODEL_KEY], sum(t.numel() for t in tensors.values()))
        return _arrays({name: to_numpy(t) for name, t in tensors.items()})
    if suffix == ".npz":
        return _arrays({name: read_array(source, name) for name in _names(source)})
    return _arrays({"": read_array(source)})


def _names(source: Path) -> list[str]:
    try:
        with np.load(source, allow_pickle=False) as archive:
            return list(archive.files)
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise FileFormatError(f"{source}: is no whole .npz file ({error}). Write it again.") from None


def _format(found: Format, show_plan: bool) -> tuple[dict[str, Any], list[str]]:
    inner = found.topology()
    shapes = [list(t.shape) for t in found.tensors()]
    values: dict[str, Any] = {
        "kind": "network",
        "format": found.name,
        "shape": list(found.shape),
        "ranks": list(found.ranks),
        "dtype": str(found.dtype).removeprefix("torch."),
        "n_params": found.n_params,
        "nbytes": found.nbytes,
        "compression_ratio": found.compression_ratio,
        "equation": str(inner),
        "tensors": shapes,
    }
    lines = [
        f"  {found!r}",
        f"  equation: {inner}",
        *(f"  tensor {k}: {' × '.join(map(str, shape))}" for k, shape in enumerate(shapes)),
    ]
    way = found.view()
    if way is not None:
        values["reshaped"] = str(way)
        lines.insert(2, f"  over the array as: {way}")
    if show_plan:
        lines += ["", str(plan(inner, tuple(tuple(s) for s in shapes)))]
    return values, lines


def _model(source: Path, text: str, n_params: int) -> tuple[dict[str, Any], list[str]]:
    try:
        structure = _json.loads(text)
        model, layers = structure["model"], {str(n): str(what["kind"]) for n, what in structure["layers"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(
            f"{source}: the structure of the model cannot be read ({error}). Write it again."
        ) from None
    values = {"kind": "model", "model": model, "n_params": n_params, "layers": layers}
    lines = [f"  a compressed {model} of {n_params:,} numbers; {len(layers)} layers are factored"]
    return values, lines + [f"  {name}: {kind}" for name, kind in layers.items()]


def _arrays(arrays: dict[str, np.ndarray[Any, Any]]) -> tuple[dict[str, Any], list[str]]:
    described = {name: _described(array) for name, array in arrays.items()}
    lines = []
    for name, about in described.items():
        line = f"  {name + ': ' if name else ''}{about['dtype']} of shape {tuple(about['shape'])}"
        if "min" in about:
            line += f", {about['min']:.6g} … {about['max']:.6g}"
        if about["missing"]:
            line += f", {about['missing']:,} NaN or infinite"
        lines.append(line)
    return {"kind": "arrays", "arrays": described}, lines or ["  no array"]


def _described(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {"shape": list(array.shape), "dtype": str(array.dtype), "nbytes": array.nbytes}
    finite = np.isfinite(array)
    about["missing"] = int(array.size - finite.sum())
    if finite.any() and array.dtype.kind in "biuf":
        known = array[finite]
        about |= {"min": float(known.min()), "max": float(known.max())}
    return about
