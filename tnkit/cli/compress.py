"""`tnkit compress`: a trained model to a smaller one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tnkit import nn as tnn
from tnkit.cli import options as o
from tnkit.cli.models import read_batches, read_model, read_texts
from tnkit.cli.output import finish, progress_wanted, require_free, require_report, write_report
from tnkit.errors import OptionError
from tnkit.interop.folders import compress_folder, write_folder
from tnkit.report import summary

__all__ = ["compress"]


def compress(
    model: o.Model,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            "-k",
            metavar="SIZE",
            help="What may stay of the layers in scope: a share (0.5 or 50%), parameters (2000000) or bytes (8MB).",
            rich_help_panel=o.WHAT,
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option("--max-error", help="Relative error that no layer exceeds.", rich_help_panel=o.WHAT),
    ] = None,
    calib: o.Calib = None,
    leave: o.Leave = None,
    batch_size: o.BatchSize = 32,
    weights: o.Weights = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PLACE",
            help="Where to write: a .safetensors file (default: MODEL's name with .small.safetensors), or a new folder "
            "for a model of transformers.",
            rich_help_panel=o.OUTPUT,
        ),
    ] = None,
    by_layer: Annotated[
        bool,
        typer.Option(
            "--by-layer",
            help="Read and write the folder a layer at a time: for models that do not fit in memory; needs -o FOLDER.",
            rich_help_panel=o.LIMITS,
        ),
    ] = False,
    report: o.ModelPage = None,
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Make the linear and convolution layers of a trained model smaller.

    With [bold]--calib[/], what is kept small is the error of each layer's output on that data: far better than by its
    weights alone. The result is a .safetensors file for [bold]tk.nn.load(file, base=model)[/], or a folder for
    [bold]from_pretrained[/].

    [dim]$[/] tnkit compress path/to/model --keep 80% --calib texts.txt --report model.html
    [dim]$[/] tnkit compress path/to/model --keep 80% --calib texts.txt -o path/to/smaller
    [dim]$[/] tnkit compress path/to/large --keep 60% --by-layer -o path/to/smaller
    [dim]$[/] tnkit compress mymodel:build --weights state.safetensors --keep 0.5 --calib inputs.npy
    """
    out = Path(f"{Path(model.replace(':', '.')).resolve().name}.small.safetensors") if out is None else out
    folder = out.suffix.lower() != ".safetensors"
    if folder and (":" in model or out.suffix or out.exists()):
        raise OptionError(
            f"--out {out}: models are written as .safetensors, those of a folder also into a new folder. "
            "Give a name that ends with .safetensors, or one that is not there yet and has no ending."
        )
    if keep is None and max_error is None:
        raise OptionError("say how small: give --keep (such as 0.5 or 8MB) or --max-error, or both.")
    require_report(report, markdown=True)
    require_free(None if folder else out, report, force=force)
    size = tnn.Budget() if keep is None else o.parse_budget(keep, option="--keep")
    target = tnn.Budget(params=size.params, bytes=size.bytes, max_error=max_error)
    rules = dict.fromkeys(leave or ())
    if by_layer:
        if not folder:
            raise OptionError("--by-layer writes a folder of transformers: give --out with a new name without ending.")
        texts = None if calib is None else read_texts(calib)
        found = compress_folder(model, out, target, texts, rules)
        _finish(found, model, out, report, as_json=json, folder=True)
        return
    local = read_model(model, weights)
    batches = None if calib is None else read_batches(calib, local, batch_size)
    console = Console(stderr=True)
    if progress_wanted(quiet):
        with console.status("compressing"):
            small, found = tnn.compress(local.model, target, batches, rules)
    else:
        small, found = tnn.compress(local.model, target, batches, rules)
    if folder:
        write_folder(small, local.tokenizer, out)
    else:
        tnn.save(small, out)
    _finish(found, model, out, report, as_json=json, folder=folder)


def _finish(found: tnn.ModelReport, model: str, out: Path, report: Path | None, *, as_json: bool, folder: bool) -> None:
    """The report, and where the result is."""
    values = {**found.to_dict(), "model": model, "output": str(out)}
    title = f"{Path(model).name}, compressed"
    write_report(report, values, title, lambda: [summary.of_model(found)], found.to_markdown)
    how = f"from_pretrained({str(out)!r})" if folder else f"tk.nn.load({str(out)!r}, base=model)"
    finish(values, f"{found}\n\nwritten to {out}; read it with {how}", as_json=as_json)
