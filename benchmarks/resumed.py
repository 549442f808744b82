"""Rows that are written as they come, on one thread; a run with the same file goes on from it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from benchmarks.harness import machine, write_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")

__all__ = ["resumed"]


def resumed(path: Path, kind: type[R], make: Callable[[list[R]], Iterable[R]], **about: object) -> list[R]:
    """All rows: those of the file, and those that are made.

    Args:
        path: of the file.
        kind: of a row, a dataclass of plain values.
        make: from the rows that are there those that are missing, one by one.
        about: what else the file is to hold.
    """
    torch.set_num_threads(1)
    found = [kind(**row) for row in json.loads(path.read_text())["rows"]] if path.exists() else []
    on = asdict(machine(()))
    for row in make(list(found)):
        found.append(row)
        state = f"load average {os.getloadavg()[0]:.1f} at the end"
        write_json(path, {"machine": on, "state": state, **about, "rows": [asdict(r) for r in found]})
    return found
