"""`tnkit complete`: fill the holes of an array or an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from tnkit import completion
from tnkit.array_files import ARRAY_SUFFIXES, read_array, write_array
from tnkit.cli import options as o
from tnkit.cli.guard import INTERRUPTED, warn
from tnkit.cli.long_form import LongForm
from tnkit.cli.output import beside, finish, progress_wanted, require_free, require_report, write_report
from tnkit.errors import MaskError, OptionError
from tnkit.files import require_file
from tnkit.formats import Format, save
from tnkit.report import html, summary
from tnkit.report.pictures import limits, stretched, with_holes

__all__ = ["complete"]

Array = np.ndarray[Any, Any]


def complete(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="An array file, an image, or a long table (.csv). NaN is missing.")
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            "-m",
            metavar="FILE",
            help="Not zero where observed: an array or an image.",
            rich_help_panel=o.WHAT,
        ),
    ] = None,
    missing: Annotated[
        float | None,
        typer.Option("--missing", metavar="VALUE", help="This value means missing.", rich_help_panel=o.WHAT),
    ] = None,
    modes: Annotated[
        str | None,
        typer.Option(
            "--modes",
            metavar="NAMES",
            help="Of a table: the columns that are modes, by commas.",
            rich_help_panel=o.WHAT,
        ),
    ] = None,
    value: Annotated[
        str | None,
        typer.Option(
            "--value",
            metavar="NAME",
            help="Of a table: the column of values (the last one).",
            rich_help_panel=o.WHAT,
        ),
    ] = None,
    format: o.FormatName = "auto",
    rank: Annotated[
        str,
        typer.Option("--rank", "-r", metavar="RANK", help="As for decompose; auto grows it.", rich_help_panel=o.WHAT),
    ] = "auto",
    method: o.Method = "auto",
    time_limit: o.TimeLimit = None,
    seed: o.Seed = 0,
    name: o.Key = None,
    out: o.Out = None,
    save_tensor: Annotated[
        Path | None,
        typer.Option(
            "--tensor",
            metavar="FILE",
            help="Write the fitted network as well (.safetensors).",
            rich_help_panel=o.OUTPUT,
        ),
    ] = None,
    report: o.Page = None,
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Fill in what is missing. What is observed stays as it is.

    What is missing is NaN, what [bold]--mask[/] says, or one value ([bold]--missing 0[/]; in a colour image, pixels
    whose channels all have it). The error is estimated on entries that are held out.

    [dim]$[/] tnkit complete holes.npy -o filled.npy
    [dim]$[/] tnkit complete photo.png --mask seen.png -o whole.png
    [dim]$[/] tnkit complete ratings.npy --missing 0 -f cp --rank 5
    [dim]$[/] tnkit complete sales.csv --modes shop,day --value sold
    """
    require_file(source)
    table = source.suffix.lower() == ".csv"
    _require_fitting(source, table, tuple(x is not None for x in (mask, missing, name)), modes or value)
    suffix = source.suffix.lower() if source.suffix.lower() not in (".jpg", ".jpeg") else ".png"
    out = beside(source, f".filled{suffix}") if out is None else out
    if out.suffix.lower() not in ((".csv",) if table else ARRAY_SUFFIXES):
        kinds = "tables are written as .csv" if table else f"arrays are written as one of {', '.join(ARRAY_SUFFIXES)}"
        raise OptionError(f"--out {out}: {kinds}.")
    if save_tensor is not None and save_tensor.suffix.lower() != ".safetensors":
        raise OptionError(f"--tensor {save_tensor}: networks are .safetensors files. Give a name that ends so.")
    require_report(report)
    require_free(out, save_tensor, report, force=force, source=source)
    ranks = "auto" if rank == "auto" else o.parse_rank(rank)
    options: dict[str, Any] = {
        "format": format,
        "rank": ranks,
        "method": method,
        "time_limit_s": time_limit,
        "progress": progress_wanted(quiet),
        "rng": seed,
    }
    if table:
        long = LongForm.read(source, None if modes is None else [m.strip() for m in modes.split(",")], value)
        done = completion.complete(long.observations, **options)
        values = {**done.to_dict(), "filled": long.write(out, done)}
        pieces = lambda: [summary.of_completion(done)]  # noqa: E731
    else:
        stored = read_array(source, name)
        x = stored if stored.dtype.kind in "fc" else stored.astype(np.float64)
        seen = _observed(x, mask, missing)
        done = completion.complete(x, mask=seen, **options)
        filled = np.asarray(done.filled)
        write_array(out, _like(filled, stored))
        values = done.to_dict()
        pieces = lambda: _pieces(x, seen, filled, done)  # noqa: E731
        if mask is not None and seen is not None and seen.any() and (x[seen] == x[seen][0]).all():
            warn(f"every observed entry is {x[seen][0]:g}: --mask is not zero where the data are seen, not the holes.")
    if save_tensor is not None:
        _save(done.tensor, save_tensor)
    values |= {"input": str(source), "output": str(out)}
    write_report(report, values, f"{source.name}, completed", pieces)
    finish(values, f"{done!r}\n  written to {out}", as_json=json)
    if not done.status.ok:
        warn(str(done.status))
    if done.status.name == "interrupted":
        raise typer.Exit(INTERRUPTED)


def _require_fitting(source: Path, table: bool, of_arrays: tuple[bool, ...], of_tables: str | None) -> None:
    """Refuse options that say nothing of this kind of file."""
    if table and any(of_arrays):
        raise OptionError(f"{source}: of a table, empty values are missing; leave --mask, --missing and --name out.")
    if not table and of_tables:
        raise OptionError(f"{source}: --modes and --value are of tables (.csv).")


def _observed(x: Array, mask: Path | None, missing: float | None) -> Array | None:
    """True where observed; None where NaN alone says it."""
    if mask is None and missing is None:
        if not np.isnan(x).any():
            raise MaskError(
                "nothing is missing: the array has no NaN. Say what is missing by --mask FILE or --missing VALUE."
            )
        return None
    seen = ~np.isnan(x)
    if missing is not None:
        hole = x == missing
        if x.ndim == 3 and x.shape[2] in (3, 4):  # a colour image: pixels, not channels, are missing
            hole = np.broadcast_to(hole.all(axis=2, keepdims=True), x.shape)
        seen &= ~hole
    if mask is not None:
        given = read_array(mask)
        if given.dtype.kind == "f" and np.isnan(given).any():
            raise MaskError(f"{mask}: a mask has no NaN. Give not zero where observed, 0 where missing.")
        observed = given != 0
        if observed.ndim == 3 and x.ndim == 2:  # a grey mask that was stored in colour
            observed = observed[..., :3].any(axis=2)
        if observed.shape == x.shape[:-1]:
            observed = np.broadcast_to(observed[..., None], x.shape)
        if observed.shape != x.shape:
            raise MaskError(
                f"{mask}: the mask has shape {given.shape}, the array {x.shape}. Give one of the same shape, "
                "or without the last mode."
            )
        seen &= observed
    return seen


def _like(filled: Array, stored: Array) -> Array:
    """The values in the type that was read; whole numbers are rounded and kept in its range."""
    if stored.dtype.kind not in "iu":
        return filled if stored.dtype.kind != "b" else filled > 0.5
    ends = np.iinfo(stored.dtype)
    return np.clip(np.round(filled), ends.min, ends.max).astype(stored.dtype)


def _save(tensor: Format | None, file: Path) -> None:
    if tensor is None:
        warn(f"{file} was not written: this method fits no network of tensors.")
        return
    save(tensor, file)


def _pieces(x: Array, seen: Array | None, filled: Array, done: Any) -> list[str]:
    pieces = [summary.of_completion(done)]
    if x.ndim == 2 or (x.ndim == 3 and x.shape[2] == 3):
        known = ~np.isnan(x) if seen is None else seen
        low, high = limits(x[known])
        pieces.append(
            html.figures(
                html.figure(with_holes(stretched(np.where(known, x, low), low, high), known), "observed"),
                html.figure(stretched(filled, low, high), "filled"),
            )
        )
    return pieces
