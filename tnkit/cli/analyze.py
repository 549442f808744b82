"""`tnkit analyze`: what a model's layers are like, and what compressing them would cost."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from tnkit import nn as tnn
from tnkit.cli import options as o
from tnkit.cli.models import read_batches, read_model
from tnkit.cli.output import finish, progress_wanted, require_free, require_report, write_report
from tnkit.report import summary

__all__ = ["analyze"]


def analyze(
    model: o.Model,
    calib: o.Calib = None,
    leave: o.Leave = None,
    batch_size: o.BatchSize = 32,
    weights: o.Weights = None,
    report: o.ModelPage = None,
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Look at the layers of a trained model: spectra, errors by size, time, sensitivity. Nothing is changed.

    With [bold]--calib[/], errors are those of the layers' outputs on that data, and layers are timed.

    [dim]$[/] tnkit analyze path/to/model --calib texts.txt --report model.html
    [dim]$[/] tnkit analyze mymodel:build --weights state.safetensors --calib inputs.npy
    """
    require_report(report, markdown=True)
    require_free(report, force=force)
    local = read_model(model, weights)
    batches = None if calib is None else read_batches(calib, local, batch_size)
    rules = dict.fromkeys(leave or ())
    if progress_wanted(quiet):
        with Console(stderr=True).status("looking"):
            found = tnn.analyze(local.model, batches, rules)
    else:
        found = tnn.analyze(local.model, batches, rules)
    values = {**found.to_dict(), "model": model}
    write_report(
        report, values, f"{Path(model).name}, as it is", lambda: [summary.of_analysis(found)], found.to_markdown
    )
    finish(values, str(found), as_json=json)
