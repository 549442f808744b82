"""The commands together."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tnkit.cli.analyze import analyze
from tnkit.cli.bench import bench
from tnkit.cli.complete import complete
from tnkit.cli.compress import compress
from tnkit.cli.decompose import decompose
from tnkit.cli.guard import Guarded
from tnkit.cli.info import info
from tnkit.cli.reconstruct import reconstruct

__all__ = ["app", "main"]

EPILOG = (
    "[dim]Exit codes: 0 done · 2 not done, with the reason on standard error · 3 written, but --eps was not met · "
    "130 stopped from the keyboard.[/]"
)

app = typer.Typer(
    name="tnkit",
    cls=Guarded,
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tnkit {sys.modules['tnkit'].__version__}")
        raise typer.Exit


@app.callback()
def tnkit(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Turn big arrays and big models into small networks of tensors, and say truthfully how much was lost.

    [dim]$[/] tnkit decompose cube.npy --eps 0.05             [dim]an array, to 5 % error[/]
    [dim]$[/] tnkit info cube.tn.safetensors                  [dim]what came out[/]
    [dim]$[/] tnkit reconstruct cube.tn.safetensors           [dim]and back[/]
    [dim]$[/] tnkit complete photo.png --mask seen.png        [dim]fill the holes[/]
    [dim]$[/] tnkit analyze path/to/model                     [dim]what a model's layers are like[/]
    [dim]$[/] tnkit compress path/to/model --keep 80%         [dim]a trained model[/]
    [dim]$[/] tnkit bench path/to/model path/to/smaller       [dim]what that gained[/]
    """


for _command in (decompose, info, reconstruct, complete, analyze, compress, bench):
    app.command()(_command)


def main() -> None:
    """Run the command line."""
    app(prog_name="tnkit")
