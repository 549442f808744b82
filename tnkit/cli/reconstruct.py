"""`tnkit reconstruct`: from a network of tensors back to the array, or to a part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tnkit import api
from tnkit.array_files import ARRAY_SUFFIXES, read_array, write_array
from tnkit.arrays import to_numpy
from tnkit.cli import options as o
from tnkit.cli.output import beside, finish, require_free
from tnkit.errors import FileFormatError, OptionError
from tnkit.files import require_file
from tnkit.formats import Format, load

__all__ = ["load_format", "reconstruct"]


def reconstruct(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A file that tnkit decompose or tk.save wrote.")],
    slices: Annotated[
        str | None,
        typer.Option(
            "--slice",
            metavar="INDEX",
            help='Only this part, as in NumPy: ":, :, 30". The whole array is then never made.',
            rich_help_panel=o.WHAT,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="FILE", help="Measure the error to this array.", rich_help_panel=o.WHAT),
    ] = None,
    name: o.Key = None,
    out: o.Out = None,
    force: o.Force = False,
    json: o.Json = False,
) -> None:
    """Give the array back, whole or in part.

    The ending of [bold]--out[/] says how it is written: .npy (the default), .npz, .safetensors, or an image.

    [dim]$[/] tnkit reconstruct cube.tn.safetensors -o cube.npy --against original.npy
    [dim]$[/] tnkit reconstruct cube.tn.safetensors --slice ":, :, 30" -o band30.npy
    [dim]$[/] tnkit reconstruct photo.tn.safetensors -o photo.png
    """
    require_file(source)
    out = beside(source, ".dense.npy") if out is None else out
    if out.suffix.lower() not in ARRAY_SUFFIXES:
        raise OptionError(f"--out {out}: arrays are written as one of {', '.join(ARRAY_SUFFIXES)}.")
    require_free(out, force=force, source=source)
    index = None if slices is None else o.parse_slices(slices)
    tensor = load_format(source)
    error = None if against is None else api.error(read_array(against, name), tensor)
    part: Any = tensor if index is None else tensor[index]
    dense = to_numpy(part.to_dense() if isinstance(part, Format) else part)
    write_array(out, dense)
    values: dict[str, Any] = {"input": str(source), "output": str(out)}
    values |= {"shape": list(dense.shape), "dtype": str(dense.dtype)}
    text = f"{out}: {dense.dtype} of shape {dense.shape}"
    if error is not None:
        values["rel_error"] = error
        text += f"\n  relative error to {against}: {error:.3g}" + (" (of the whole array)" if index else "")
    finish(values, text, as_json=json)


def load_format(source: Path) -> Format:
    """A format from a file.

    Raises:
        FileFormatError: the file holds something else.
    """
    found = load(source)
    if not isinstance(found, Format):
        raise FileFormatError(f"{source}: holds a {type(found).__name__}, not a network of tensors.")
    return found
