"""The tensors of a model directory: one is read at a time, and new ones are gathered into shards of bounded size.

A directory holds one model.safetensors, or several files with model.safetensors.index.json, which says where each is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tnkit.errors import FileFormatError
from tnkit.files import replacing, write_safetensors

__all__ = ["INDEX", "SINGLE", "ShardWriter", "TensorFiles", "write_json"]

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class TensorFiles:
    """Where each tensor of a model directory is.

    Attributes:
        folder: the directory.
        places: file name by tensor name.
    """

    folder: Path
    places: Mapping[str, str]

    @staticmethod
    def of(folder: str | PathLike[str]) -> TensorFiles:
        """Read the index, or the header of the single file.

        Raises:
            FileFormatError: neither is there, or it cannot be read, or names a file that is not there.
        """
        place = Path(folder)
        try:
            if (place / INDEX).is_file():
                found = json.loads((place / INDEX).read_text(encoding="utf-8"))["weight_map"]
                places = {str(name): str(file) for name, file in found.items()}
            elif (place / SINGLE).is_file():
                with safe_open(place / SINGLE, framework="pt") as opened:
                    places = dict.fromkeys(opened.keys(), SINGLE)
            else:
                raise FileFormatError(f"{folder}: holds neither {SINGLE} nor {INDEX}. Give the folder of a model.")
        except (ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(f"{folder}: its index cannot be read ({error}). Write the model again.") from None
        missing = sorted({file for file in places.values() if not (place / file).is_file()})
        if missing:
            raise FileFormatError(f"{folder}: its index names {missing[0]}, which is not there. Complete the folder.")
        return TensorFiles(place, places)

    def read(self, name: str) -> Tensor:
        """One tensor in memory of its own; nothing of the file stays mapped.

        Raises:
            FileFormatError: no such tensor, or a file that cannot be read.
        """
        if name not in self.places:
            raise FileFormatError(f"{self.folder}: holds no tensor {name!r}. Its names do not fit this model.")
        file = self.folder / self.places[name]
        try:
            with safe_open(file, framework="pt") as opened:
                tensor: Tensor = opened.get_tensor(name).clone()
                return tensor
        except (SafetensorError, OSError, ValueError) as error:
            raise FileFormatError(f"{file}: cannot be read ({error}). It may be cut short.") from None

    def described(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of each tensor, from the headers of the files."""
        found = {}
        for file in sorted(set(self.places.values())):
            try:
                with safe_open(self.folder / file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 (it is no dict)
                        part = opened.get_slice(name)
                        found[name] = (tuple(part.get_shape()), TYPES[part.get_dtype()])
            except (SafetensorError, OSError, KeyError) as error:
                raise FileFormatError(f"{self.folder / file}: cannot be read ({error}). It may be cut short.") from None
        return found

    def __iter__(self) -> Iterator[str]:
        """The names, file by file."""
        return iter(sorted(self.places, key=lambda name: (self.places[name], name)))

    def state(self) -> list[list[Any]]:
        """Name, size and time of change of each file: another state means another model."""
        files = [self.folder / file for file in sorted(set(self.places.values()))]
        return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


@dataclass(slots=True)
class ShardWriter:
    """Gathers tensors and writes a file whenever they reach a size.

    Attributes:
        folder: where the files go.
        max_bytes: of a file, unless one tensor alone is larger.
        shards: names of the tensors of each file that is written, by file name.
        total_bytes: of all tensors that were written.
    """

    folder: Path
    max_bytes: int
    shards: dict[str, list[str]] = field(default_factory=dict)
    total_bytes: int = 0
    _waiting: dict[str, Tensor] = field(default_factory=dict)

    def add(self, tensors: Mapping[str, Tensor]) -> bool:
        """Take tensors that belong together; whether everything that was given is now on disk."""
        self._waiting.update(tensors)
        return self.flush() if sum(t.nbytes for t in self._waiting.values()) >= self.max_bytes else False

    def flush(self) -> bool:
        """Write what waits."""
        if self._waiting:
            name = f"shard-{len(self.shards):05d}.safetensors"
            write_safetensors(self.folder / name, self._waiting, {"format": "pt"})
            self.shards[name] = sorted(self._waiting)
            self.total_bytes += sum(t.nbytes for t in self._waiting.values())
            self._waiting.clear()
        return True

    def finish(self, metadata: Mapping[str, Any]) -> None:
        """Write what waits, give the files their names, and write the index."""
        self.flush()
        files = list(self.shards)
        names = [f"model-{k + 1:05d}-of-{len(files):05d}.safetensors" for k in range(len(files))]
        places = {t: new for old, new in zip(files, names, strict=True) for t in self.shards[old]}
        for old, new in zip(files, names, strict=True):
            if (self.folder / old).exists():  # an interrupted finish may have renamed it
                (self.folder / old).rename(self.folder / new)
        index = {"metadata": {"total_size": self.total_bytes, **metadata}, "weight_map": dict(sorted(places.items()))}
        write_json(self.folder / INDEX, index)


def write_json(path: Path, values: Any) -> None:
    """Write JSON, all or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
