"""`tnkit bench`: a compressed model beside the dense one, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tnkit import nn as tnn
from tnkit.cli import options as o
from tnkit.cli.models import read_batches, read_model
from tnkit.cli.output import finish, require_free, require_report, write_report
from tnkit.errors import OptionError
from tnkit.report import summary

__all__ = ["bench"]


def bench(
    model: o.Model,
    small: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SMALL]",
            help="What `tnkit compress` made of it: a .safetensors file or a folder; none where MODEL is compressed.",
        ),
    ] = None,
    calib: o.Calib = None,
    batch_size: o.BatchSize = 32,
    weights: o.Weights = None,
    report: o.ModelPage = None,
    force: o.Force = False,
    json: o.Json = False,
) -> None:
    """Measure a compressed model against the dense one: sizes, FLOPs and milliseconds per layer and in all, errors.

    [dim]$[/] tnkit bench path/to/model path/to/smaller --calib texts.txt
    [dim]$[/] tnkit bench path/to/model small.safetensors --calib texts.txt --report speed.html
    [dim]$[/] tnkit bench path/to/smaller --calib texts.txt
    """
    if calib is None:
        raise OptionError("give real inputs to measure on: --calib with texts (.txt, one a line) or an array (.npy).")
    require_report(report, markdown=True)
    require_free(report, force=force)
    dense = read_model(model, weights)
    batches = read_batches(calib, dense, batch_size)
    if small is None:
        found = tnn.bench(dense.model, batches)
    elif small.is_dir():
        found = tnn.bench(read_model(str(small), None).model, batches, dense.model)
    else:
        found = tnn.bench(tnn.load(small, base=dense.model), batches, dense.model)
    values = {**found.to_dict(), "model": model}
    title = f"{(small or Path(model)).name}, measured"
    write_report(report, values, title, lambda: [summary.of_model(found)], found.to_markdown)
    finish(values, str(found), as_json=json)
