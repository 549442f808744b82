"""Progress of a long compression on disk: what is known of each layer, and what is written already."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tnkit.nn.large.tensor_files import write_json

__all__ = ["Progress"]

FILE = "progress.json"


@dataclass(slots=True)
class Progress:
    """A working folder and its record; every change is written before the next step.

    Attributes:
        folder: where the parts are.
        key: of the task; another task begins anew.
        curves: by layer, the error of each rank as a share of the energy.
        done: names of layers and tensors that are in a shard.
        shards: tensor names by file.
        total_bytes: in these.
        layers: structure of the finished layers.
        aliases: of tied ones.
        reports: of the finished layers.
    """

    folder: Path
    key: str
    curves: dict[str, list[float]] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    shards: dict[str, list[str]] = field(default_factory=dict)
    total_bytes: int = 0
    layers: dict[str, Any] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    reports: list[dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def of(folder: Path, task: Any) -> Progress:
        """What is there of this task; a folder with parts of another task is emptied."""
        key = hashlib.sha256(json.dumps(task, sort_keys=True, default=repr).encode()).hexdigest()
        try:
            found = json.loads((folder / FILE).read_text(encoding="utf-8"))
            if found.pop("key") == key:
                return Progress(folder, key, **found)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return Progress(folder, key)

    def write(self) -> None:
        """Put it on disk, all or nothing."""
        names = ("key", "curves", "done", "shards", "total_bytes", "layers", "aliases", "reports")
        write_json(self.folder / FILE, {name: getattr(self, name) for name in names})

    def finish(self, target: Path) -> None:
        """Take the record away and give the folder its name."""
        (self.folder / FILE).unlink()
        self.folder.rename(target)
