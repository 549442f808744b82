"""Where results go: files that are not overwritten unasked, JSON for machines, text for people."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from tnkit.errors import OptionError
from tnkit.files import replacing
from tnkit.report import html

__all__ = ["beside", "finish", "progress_wanted", "require_free", "write_report"]

REPORTS = (".html", ".json")


def beside(source: Path, ending: str) -> Path:
    """The name for a result that was not named: the input's, with another ending."""
    return source.with_name(source.stem + ending)


def require_free(*files: Path | None, force: bool, source: Path | None = None) -> None:
    """Refuse places that cannot be written, before any work.

    Raises:
        OptionError: a file that is there already (without `force`), the input itself, two results in one file, a folder
            that is not there.
    """
    wanted = [file for file in files if file is not None]
    if len({file.resolve() for file in wanted}) < len(wanted):
        raise OptionError(f"{wanted[0]}: two results would go to one file. Give each a name of its own.")
    for file in wanted:
        if source is not None and file.resolve() == source.resolve():
            raise OptionError(f"{file}: is the input itself. Write to another file.")
        if file.is_dir():
            raise OptionError(f"{file}: is a folder. Give the path of a file in it.")
        if file.exists() and not force:
            raise OptionError(f"{file}: is there already. Give another --out, or --force to replace it.")
        if not file.parent.is_dir():
            raise OptionError(f"{file}: the folder {file.parent} is not there. Make it first.")


def require_report(file: Path | None, *, markdown: bool = False) -> None:
    """Refuse a report of a kind that is not written.

    Raises:
        OptionError: its suffix is none of .html and .json, nor .md where `markdown` says so.
    """
    kinds = (*REPORTS, ".md") if markdown else REPORTS
    if file is not None and file.suffix.lower() not in kinds:
        raise OptionError(f"--report {file}: cannot be told from its ending. Reports end with {' or '.join(kinds)}.")


def write_report(
    file: Path | None,
    values: Mapping[str, Any],
    title: str,
    pieces: Callable[[], list[str]],
    markdown: Callable[[], str] | None = None,
) -> None:
    """Write a report where one was asked for: its values, markdown or a page, as the file's ending says."""
    if file is None:
        return
    suffix = file.suffix.lower()
    if suffix == ".json" or (suffix == ".md" and markdown is not None):
        text = json.dumps(_plain(values), indent=2) + "\n" if suffix == ".json" or markdown is None else markdown()
        with replacing(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    else:
        html.write_page(file, html.page(title, *pieces()))


def finish(values: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print the result: JSON for machines, or text."""
    typer.echo(json.dumps(_plain(values)) if as_json else text)


def progress_wanted(quiet: bool) -> bool:
    """Whether a progress line makes sense: it goes to standard error, and only to a terminal."""
    return not quiet and Console(stderr=True).is_terminal


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
