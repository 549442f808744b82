"""`tnkit compress`: a trained model to a smaller one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tnkit import nn as tnn
from tnkit.cli import options as o
from tnkit.cli.models import read_batches, read_model
from tnkit.cli.output import finish, progress_wanted, require_free, require_report, write_report
from tnkit.errors import OptionError
from tnkit.report import summary

__all__ = ["compress"]


def compress(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="The folder of a transformers model (config.json, *.safetensors), or module:name."
        ),
    ],
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
    calib: Annotated[
        Path | None,
        typer.Option(
            "--calib",
            "-c",
            metavar="FILE",
            help="Real inputs, to weigh errors by: texts (.txt, one a line), or an array of examples (.npy …).",
            rich_help_panel=o.WHAT,
        ),
    ] = None,
    leave: Annotated[
        list[str] | None,
        typer.Option(
            "--leave",
            metavar="LAYER",
            help="Leave these layers as they are: a name, a glob or re:pattern; repeatable.",
            rich_help_panel=o.LIMITS,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Examples a batch.", rich_help_panel=o.LIMITS)] = 32,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="FILE", help="The state of module:name, as .safetensors.", rich_help_panel=o.LIMITS
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Where to write; by default MODEL's name with .small.safetensors.",
            rich_help_panel=o.OUTPUT,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="FILE", help="Write a report as well: .html, .json or .md.", rich_help_panel=o.OUTPUT
        ),
    ] = None,
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Make the linear and convolution layers of a trained model smaller.

    With [bold]--calib[/], what is kept small is the error of each layer's output on that data: far better than by its
    weights alone. The result is a .safetensors file for [bold]tk.nn.load(file, base=model)[/].

    [dim]$[/] tnkit compress path/to/model --keep 80% --calib texts.txt --report model.html
    [dim]$[/] tnkit compress mymodel:build --weights state.safetensors --keep 0.5 --calib inputs.npy
    """
    out = Path(f"{Path(model.replace(':', '.')).resolve().name}.small.safetensors") if out is None else out
    if out.suffix.lower() != ".safetensors":
        raise OptionError(f"--out {out}: models are written as .safetensors. Give a name that ends so.")
    if keep is None and max_error is None:
        raise OptionError("say how small: give --keep (such as 0.5 or 8MB) or --max-error, or both.")
    require_report(report, markdown=True)
    require_free(out, report, force=force)
    size = tnn.Budget() if keep is None else o.parse_budget(keep, option="--keep")
    target = tnn.Budget(params=size.params, bytes=size.bytes, max_error=max_error)
    local = read_model(model, weights)
    batches = None if calib is None else read_batches(calib, local, batch_size)
    rules = dict.fromkeys(leave or ())
    console = Console(stderr=True)
    if progress_wanted(quiet):
        with console.status("compressing"):
            small, found = tnn.compress(local.model, target, batches, rules)
    else:
        small, found = tnn.compress(local.model, target, batches, rules)
    tnn.save(small, out)
    values = {**found.to_dict(), "model": model, "output": str(out)}
    write_report(
        report, values, f"{Path(model).name}, compressed", lambda: [summary.of_model(found)], found.to_markdown
    )
    finish(values, f"{found}\n\nwritten to {out}; read it with tk.nn.load({str(out)!r}, base=model)", as_json=json)
