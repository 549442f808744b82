"""`tnkit decompose`: an array file to a small network of tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from tnkit import api
from tnkit.array_files import read_array
from tnkit.cli import options as o
from tnkit.cli.guard import INTERRUPTED, NOT_MET, warn
from tnkit.cli.output import beside, finish, progress_wanted, require_free, require_report, write_report
from tnkit.errors import OptionError
from tnkit.files import require_file
from tnkit.report import FitReport, summary

__all__ = ["decompose"]

DTYPES = ("float32", "float64", "complex64", "complex128")


def decompose(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A .npy, .npz or .safetensors file, or an image.")],
    format: o.FormatName = "auto",
    eps: Annotated[
        float | None,
        typer.Option("--eps", "-e", help="Relative Frobenius error that must not be exceeded.", rich_help_panel=o.WHAT),
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option(
            "--rank",
            "-r",
            metavar="RANK",
            help='One number (8), one for each bond (4,8,4), by name ("a=4,b=6"), or a share of the dense size (10%).',
            rich_help_panel=o.WHAT,
        ),
    ] = None,
    budget: o.BudgetText = None,
    method: o.Method = "auto",
    time_limit: o.TimeLimit = None,
    seed: o.Seed = 0,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help="Compute and store in this type: float32, float64, … (integers are float64 otherwise).",
            rich_help_panel=o.LIMITS,
        ),
    ] = None,
    name: o.Key = None,
    out: o.Out = None,
    report: o.Page = None,
    force: o.Force = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say which method it would be and why; do nothing.", rich_help_panel=o.OUTPUT),
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Turn an array into a small network of tensors.

    Give at least one of [bold]--eps[/], [bold]--rank[/] and [bold]--budget[/]; all that are given hold together.
    The result is a .safetensors file; [bold]tnkit info[/] shows it, [bold]tnkit reconstruct[/] gives the array back.

    [dim]$[/] tnkit decompose cube.npy --eps 0.05
    [dim]$[/] tnkit decompose cube.npy -f tucker -r 8,8,4 -o cube.tucker.safetensors
    [dim]$[/] tnkit decompose photo.png -f tt --budget 10% --report photo.html
    """
    require_file(source)
    out = beside(source, ".tn.safetensors") if out is None else out
    if out.suffix.lower() != ".safetensors":
        raise OptionError(f"--out {out}: networks of tensors are .safetensors files. Give a name that ends so.")
    require_report(report)
    if not explain:
        require_free(out, report, force=force, source=source)
    asked: dict[str, Any] = {
        "rank": None if rank is None else o.parse_rank(rank),
        "eps": eps,
        "budget": None if budget is None else o.parse_budget(budget),
        "method": method,
    }
    x = _converted(read_array(source, name), dtype)
    if explain:
        found = api.explain(x, format, **asked)
        finish({"format": found.format, "method": found.method, "why": found.why}, repr(found), as_json=json)
        return
    listen = progress_wanted(quiet)
    fit = api.decompose(x, format, **asked, time_limit_s=time_limit, progress=listen, rng=seed)
    fit.tensor.save(out)
    values = {**fit.to_dict(), "input": str(source), "output": str(out)}
    write_report(report, values, f"{source.name}, decomposed", lambda: _pieces(x, fit))
    lines = [
        repr(fit),
        f"  written to {out} ({out.stat().st_size:,} bytes; {source.name} has {source.stat().st_size:,})",
    ]
    lines += [f"  report: {report}"] * (report is not None)
    finish(values, "\n".join(lines), as_json=json)
    _end(fit, eps)


def _converted(x: np.ndarray[Any, Any], dtype: str | None) -> np.ndarray[Any, Any]:
    if dtype is None:
        return x
    if dtype not in DTYPES:
        raise OptionError(f"--dtype {dtype!r} is unknown. Use one of {', '.join(DTYPES)}.")
    if x.dtype.kind == "c" and not dtype.startswith("complex"):
        raise OptionError(f"--dtype {dtype}: the array is complex. Use complex64 or complex128.")
    return x.astype(dtype)


def _pieces(x: np.ndarray[Any, Any], fit: FitReport) -> list[str]:
    pieces = [summary.of_fit(fit)]
    shown = _slice_to_show(x.shape)
    if shown is not None:
        after = np.asarray(fit.tensor[shown].to_dense() if shown else fit.tensor.to_dense())
        where = f", at [{', '.join(':' if isinstance(k, slice) else str(k) for k in shown)}]" if shown else ""
        pieces.append(summary.before_after(x[shown], after, ("before" + where, "after" + where)))
    return pieces


def _slice_to_show(shape: tuple[int, ...]) -> tuple[Any, ...] | None:
    """An index that leaves a picture: two modes, or two and colours."""
    if len(shape) < 2 or min(shape[:2]) < 2:
        return None
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 3):
        return ()
    return (slice(None), slice(None), *(n // 2 for n in shape[2:]))


def _end(fit: FitReport, eps: float | None) -> None:
    if not fit.status.ok:
        warn(str(fit.status))
    if fit.compression_ratio <= 1:
        warn(f"{fit.n_params:,} numbers are no fewer than the array has. It is noise at this eps, or too small.")
    if fit.status.name == "interrupted":
        raise typer.Exit(INTERRUPTED)
    if eps is not None and fit.rel_error > eps:
        raise typer.Exit(NOT_MET)
