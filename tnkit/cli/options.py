"""What is written on the command line, turned into what the functions take; and the options that commands share.

Example:
    >>> from tnkit.cli.options import parse_budget, parse_rank
    >>> parse_rank("8"), parse_rank("4,8,4"), parse_rank("a=4,b=6"), parse_rank("0.1")
    (8, (4, 8, 4), {'a': 4, 'b': 6}, 0.1)
    >>> parse_budget("10%"), parse_budget("2MB").bytes
    (Budget(params=0.1, bytes=None, flops=None, latency_ms=None, max_error=None, max_drop=None), 2000000)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from tnkit.errors import OptionError
from tnkit.formats import Budget

__all__ = [
    "BatchSize",
    "BudgetText",
    "Calib",
    "Force",
    "FormatName",
    "Json",
    "Key",
    "Leave",
    "Method",
    "Model",
    "ModelPage",
    "Out",
    "Page",
    "Quiet",
    "Seed",
    "TimeLimit",
    "Weights",
    "parse_budget",
    "parse_rank",
    "parse_slices",
]

WHAT, LIMITS, OUTPUT = "What is asked", "How", "Output"
BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}

FormatName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--format",
        "-f",
        help='A name (tt, tr, tucker, cp, ht, …), an equation such as "ia,ajb,bk->ijk", or auto.',
        rich_help_panel=WHAT,
    ),
]
BudgetText: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--budget",
        "-b",
        metavar="SIZE",
        help="At most this size: numbers (10000), a share of the dense ones (0.1 or 10%), or storage (64kB, 2MB).",
        rich_help_panel=WHAT,
    ),
]
Method: TypeAlias = Annotated[
    str, typer.Option("--method", help="The algorithm, by name; auto chooses and says why.", rich_help_panel=LIMITS)
]
TimeLimit: TypeAlias = Annotated[
    float | None,
    typer.Option("--time-limit", metavar="SECONDS", help="Then give the best so far.", rich_help_panel=LIMITS),
]
Seed: TypeAlias = Annotated[
    int, typer.Option("--seed", help="The same seed gives the same answer.", rich_help_panel=LIMITS)
]
Key: TypeAlias = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Which array of a .npz or .safetensors file.", rich_help_panel=LIMITS),
]
Out: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FILE", help="Where to write; by default beside INPUT.", rich_help_panel=OUTPUT
    ),
]
Page: TypeAlias = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Write a report as well: .html or .json.", rich_help_panel=OUTPUT),
]
Force: TypeAlias = Annotated[
    bool, typer.Option("--force", help="Replace files that are there.", rich_help_panel=OUTPUT)
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.", rich_help_panel=OUTPUT)
]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=OUTPUT)]


Model: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="The folder of a transformers model (config.json, *.safetensors), or module:name."
    ),
]
Calib: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--calib",
        "-c",
        metavar="FILE",
        help="Real inputs, to weigh errors by: texts (.txt, one a line), or an array of examples (.npy …).",
        rich_help_panel=WHAT,
    ),
]
Leave: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--leave",
        metavar="LAYER",
        help="Leave these layers as they are: a name, a glob or re:pattern; repeatable.",
        rich_help_panel=LIMITS,
    ),
]
BatchSize: TypeAlias = Annotated[int, typer.Option("--batch-size", help="Examples a batch.", rich_help_panel=LIMITS)]
Weights: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="FILE", help="The state of module:name, as .safetensors.", rich_help_panel=LIMITS
    ),
]
ModelPage: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--report", metavar="FILE", help="Write a report as well: .html, .json or .md.", rich_help_panel=OUTPUT
    ),
]


def parse_rank(text: str) -> Any:
    """A rank: "8", "4,8,4", "a=4,b=6", "0.1", "10%" or "same".

    Raises:
        OptionError: it is none of these.
    """
    plain = text.strip()
    try:
        if plain == "same":
            return plain
        if "=" in plain:
            pairs = [part.split("=") for part in plain.split(",")]
            return {name.strip(): int(value) for name, value in pairs}
        if "," in plain or " " in plain:
            return tuple(int(part) for part in re.split(r"[,\s]+", plain.strip("() ,")))
        return _number(plain)
    except ValueError:
        raise OptionError(
            f'--rank {text!r} is no rank. Write one number (8), one for each bond (4,8,4), bonds by name ("a=4,b=6"), '
            "or a share of the dense size (0.1 or 10%)."
        ) from None


def parse_budget(text: str, option: str = "--budget") -> Budget:
    """A size: numbers "10000", a share "0.1" or "10%", or storage "64kB", "2MB", "1GiB".

    Raises:
        OptionError: it is none of these.
        BudgetError: it is not positive.
    """
    found = re.fullmatch(r"\s*([0-9.eE+-]+?)\s*([kmg]i?b|b)\s*", text, re.IGNORECASE)
    try:
        if found:
            return Budget(bytes=int(float(found[1]) * BYTES[found[2].lower()]))
        return Budget(params=_number(text.strip()))
    except ValueError as error:
        if isinstance(error, OptionError) or type(error) is not ValueError:
            raise
        raise OptionError(
            f"{option} {text!r} is no size. Write how many numbers (10000), a share of the dense ones (0.1 or 10%), "
            "or storage (64kB, 2MB)."
        ) from None


def _number(text: str) -> int | float:
    if text.endswith("%"):
        return float(text[:-1]) / 100
    plain = text.replace("_", "")
    return int(plain) if re.fullmatch(r"[+-]?\d+", plain) else float(plain)


def parse_slices(text: str) -> tuple[Any, ...]:
    """An index as in NumPy: ":, 3, 0:10:2, ...".

    Raises:
        OptionError: it is none.

    Example:
        >>> parse_slices(":, 3, 0:10:2, ...")
        (slice(None, None, None), 3, slice(0, 10, 2), Ellipsis)
    """
    try:
        return tuple(_index(part.strip()) for part in text.strip().strip("[]").split(","))
    except ValueError:
        raise OptionError(
            f'--slice {text!r} is no index. Write it as in NumPy, such as ":, :, 30" or "0:10, ...".'
        ) from None


def _index(part: str) -> Any:
    if part == "...":
        return Ellipsis
    if ":" not in part:
        return int(part)
    ends = [int(end) if end.strip() else None for end in part.split(":")]
    if len(ends) > 3:
        raise ValueError(part)
    return slice(*ends)
