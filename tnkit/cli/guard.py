"""What goes wrong, said in one line on standard error, with exit code 2 and no traceback."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from tnkit.errors import TnkitError, TnkitWarning

__all__ = ["ERROR", "INTERRUPTED", "NOT_MET", "Guarded", "warn"]

#: Exit codes. What was asked (eps) was not met, though a result was written.
NOT_MET = 3
#: Nothing was done.
ERROR = 2
#: Stopped from the keyboard.
INTERRUPTED = 130


class Guarded(TyperGroup):
    """A group of commands whose expected errors are a line, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a `TnkitError` or a file that cannot be used ends it with exit code 2."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", TnkitWarning)
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except BrokenPipeError:
                raise
            except (TnkitError, OSError, MemoryError) as error:
                _say("error", _in_words(error), "bold red")
                raise typer.Exit(ERROR) from None
            except KeyboardInterrupt:
                _say("stopped", "nothing was written", "bold red")
                raise typer.Exit(INTERRUPTED) from None


def warn(message: str) -> None:
    """A line on standard error that is no error."""
    _say("warning", message, "bold yellow")


def _show_warning(message: Any, category: Any, *where: Any, **more: Any) -> None:
    warn(str(message))


def _in_words(error: BaseException) -> str:
    if isinstance(error, TnkitError):
        return str(error)
    if isinstance(error, MemoryError):
        return "the memory is not enough for this. Give a smaller array, or ask for a part of it."
    reason = getattr(error, "strerror", None) or str(error)
    name = getattr(error, "filename", None)
    return f"{name}: {reason[:1].lower()}{reason[1:]}. Check the path." if name else reason


def _say(kind: str, message: str, style: str) -> None:
    text = Text.assemble((f"{kind}: ", style), " ".join(message.split()))
    Console(file=sys.stderr, soft_wrap=True, highlight=False).print(text)
