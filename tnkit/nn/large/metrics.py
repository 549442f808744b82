"""Second moments of the inputs of many layers: a few layers in memory at a time, all of them on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tnkit.files import read_safetensors, write_safetensors
from tnkit.nn.calibrate import Calibration, Seen, collect
from tnkit.nn.choice import Choice, analysed
from tnkit.nn.large.paging import paged
from tnkit.nn.large.tensor_files import TensorFiles
from tnkit.nn.layers.recipe import find_recipe
from tnkit.nn.sensitivity import Site
from tnkit.nn.stats import InputStats

__all__ = ["LayerMetrics"]

#: Wider layers keep no matrix of second moments: it would not fit.
WIDEST = 2**15


@dataclass(slots=True, eq=False)
class LayerMetrics:
    """Calibrates layers in groups, and recalls one layer's moments when it is compressed.

    Attributes:
        model: whose parameters are in `files`.
        files: see `paged`.
        names: see `paged`.
        folder: for the moments.
        batches: to calibrate on; None for none.
        most_bytes: of moments in memory.
    """

    model: nn.Module
    files: TensorFiles
    names: dict[str, str]
    folder: Path
    batches: list[Any] | None
    most_bytes: int

    def groups(self, choices: Sequence[Choice]) -> Iterator[list[Choice]]:
        """Layers whose moments fit into memory together, in order."""
        group: list[Choice] = []
        size = 0
        for choice in choices:
            need = 0 if self.batches is None else 8 * choice.view.groups * choice.view.shape[1] ** 2
            if group and size + need > self.most_bytes:
                yield group
                group, size = [], 0
            group.append(choice)
            size += need
        if group:
            yield group

    def seen(self, group: Sequence[Choice]) -> list[Choice]:
        """The layers with what the batches give them, which is then on disk as well."""
        if self.batches is None:
            return list(group)
        sites = {
            name: Site(layer, find_recipe(layer, choice.item.spec, name), choice.view.shape[1] <= WIDEST)
            for choice in group
            for name in (choice.item.name, *choice.item.tied)
            for layer in (self.model.get_submodule(name),)
        }
        with paged(self.model, self.files, self.names) as model:
            found = collect(model, sites, self.batches, "compress_files")
        self.folder.mkdir(exist_ok=True)
        done = [analysed(choice, found, errors=False) for choice in group]
        for choice in done:
            self._write(choice)
        return done

    def with_errors(self, choice: Choice) -> Choice:
        """The choice, whose layer has its values now, with the error of each rank."""
        if choice.seen is None:
            return analysed(choice, None)
        return analysed(replace(choice, item=replace(choice.item, tied=())), _only(choice.item.name, choice.seen))

    def recalled(self, choice: Choice) -> Choice:
        """The choice with the moments that are on disk."""
        if self.batches is None:
            return choice
        tensors, metadata = read_safetensors(self._file(choice))
        said = json.loads(metadata["seen"])

        def stats(kind: str) -> InputStats | None:
            if f"{kind}.gram" not in tensors:
                return None
            return InputStats(tensors[f"{kind}.gram"], tensors[f"{kind}.total"], said[kind])

        if not said["called"]:
            return choice
        seen = Seen(stats("stats"), tuple(said["shape"]), getattr(torch, said["dtype"]), None, stats("table"))
        return replace(analysed(choice, _only(choice.item.name, seen), errors=False), error=choice.error)

    def _write(self, choice: Choice) -> None:
        seen = choice.seen
        said: dict[str, Any] = {"called": seen is not None}
        tensors: dict[str, Tensor] = {}
        if seen is not None:
            said |= {"shape": list(seen.shape), "dtype": str(seen.dtype).removeprefix("torch.")}
            for kind, stats in (("stats", seen.stats), ("table", seen.table)):
                if stats is not None:
                    tensors |= {f"{kind}.gram": stats.gram, f"{kind}.total": stats.total}
                    said[kind] = stats.count
        write_safetensors(self._file(choice), tensors, {"seen": json.dumps(said)})

    def _file(self, choice: Choice) -> Path:
        return self.folder / f"{choice.item.name or 'model'}.safetensors"


def _only(name: str, seen: Seen) -> Calibration:
    return Calibration({name: seen}, None, 1)
