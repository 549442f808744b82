"""compress_files: a model directory to a smaller one, a layer at a time; the model is never in memory as a whole.

First each layer is read, its errors at every rank are noted, and it is forgotten; then the ranks are shared out; then
each layer is read again, compressed, and put into a shard. What is done is on disk: a run that was interrupted goes on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from tnkit.errors import FileFormatError, OptionError
from tnkit.formats import Budget, as_budget
from tnkit.nn.batches import require_batches
from tnkit.nn.build import build, layer_report, with_twins
from tnkit.nn.choice import Choice, make_choice
from tnkit.nn.large.metrics import LayerMetrics
from tnkit.nn.large.paging import fill_, forget_
from tnkit.nn.large.progress import Progress
from tnkit.nn.large.tensor_files import INDEX, SINGLE, ShardWriter, TensorFiles, write_json
from tnkit.nn.layers.layer_type import require_weight
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.plan import Plan, require_sizes
from tnkit.nn.report import LayerReport, ModelReport
from tnkit.nn.scope import Rules, find_scope
from tnkit.nn.structure import QUANT_METHOD, aliases_of
from tnkit.nn.surgery import n_params
from tnkit.nn.versions import VERSION

__all__ = ["compress_files"]

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx")


def compress_files(
    model: nn.Module,
    source: str | PathLike[str],
    out: str | PathLike[str],
    target: Budget | int | float | None,
    calib: Iterable[Any] | None = None,
    rules: Rules | None = None,
    *,
    max_shard_bytes: int = 2**30,
    calib_bytes: int = 2**30,
) -> ModelReport:
    """Compress the layers of a model that is in files, and write it to a new directory of the same kind.

    Args:
        model: on the meta device (parameters without values); it is left as it was.
        source: a directory with model.safetensors, or several files and model.safetensors.index.json; what else is in
            it (a configuration, a tokenizer) is copied.
        out: a directory that is not there yet.
        target: as in `compress`; params, bytes and max_error.
        calib: batches, which are run once for every `calib_bytes` of second moments, with each module's parameters read
            when it is called; None fits the weights alone.
        rules: as in `compress`.
        max_shard_bytes: of the files that are written; so much waits in memory.
        calib_bytes: of second moments that are in memory at a time.

    Layers are weighed by their inputs alone, without gradients, and are not corrected one after the other as `compress`
    does it: that would read the model again for each layer, as far as that layer, dense and compressed.

    Returns:
        The report; nothing is timed.

    Raises:
        OptionError: limits of another kind, or nothing in scope.
        BudgetError: limits that cannot be met.
        FileFormatError: files that cannot be read, that do not fit the model, or an `out` that is there.

    Cost:
        Each layer is read and decomposed twice. Memory: the largest layer some ten times over, in float64, a shard, and
        `calib_bytes`. A folder beside `out` holds what is done until all is; the same call goes on from there.
    """
    budget, place = as_budget(target), Path(out)
    if place.exists() or not place.parent.is_dir():
        raise FileFormatError(f"{out}: is there already, or has no parent folder. Give the name of a new folder.")
    given = {name for name in ("flops", "latency_ms", "max_drop") if getattr(budget, name) is not None}
    if given:
        raise OptionError(f"compress_files: {', '.join(sorted(given))} need the whole model. Use params or bytes.")
    files = TensorFiles.of(source)
    batches = None if calib is None else list(require_batches(calib, "compress_files"))
    task = [VERSION, files.state(), repr(budget), _plain(rules), max_shard_bytes, batches is not None]
    progress = Progress.of(place.with_name(f".{place.name}.part"), task)
    with _typed(model, files) as names:
        work = _Work(model, files, names, progress, budget, max_shard_bytes)
        report = work.run(LayerMetrics(model, files, names, progress.folder / "metrics", batches, calib_bytes), rules)
    _copy_rest(Path(source), progress.folder, progress)
    progress.finish(place)
    return report


@contextmanager
def _typed(model: nn.Module, files: TensorFiles) -> Iterator[dict[str, str]]:
    """The model with the types of the files; and the names of tied parameters in the files."""
    described, before = files.described(), dict(model.named_parameters(remove_duplicate=False))
    names = {a: o for a, o in aliases_of(model.state_dict(keep_vars=True)).items() if a not in described}
    made: dict[int, nn.Parameter] = {}
    try:
        for name, old in before.items():
            found = described.get(names.get(name, name))
            if found is None or found[0] != tuple(old.shape):
                seen = "nothing" if found is None else f"shape {found[0]}"
                raise FileFormatError(
                    f"{files.folder}: holds {seen} for {name!r}, which this {type(model).__name__} has with shape "
                    f"{tuple(old.shape)}. Give the folder that this model is saved in; where tensors have other names "
                    "in the files (transformers renames those of mixtures as it loads), load it and use compress."
                )
            new = made.setdefault(id(old), nn.Parameter(old.detach().to(found[1]), requires_grad=False))
            _put(model, name, new)
        yield names
    finally:
        for name, old in before.items():
            _put(model, name, old)


def _put(model: nn.Module, name: str, value: nn.Parameter) -> None:
    parent, _, leaf = name.rpartition(".")
    model.get_submodule(parent)._parameters[leaf] = value


def _plain(rules: Rules | None) -> Any:
    return None if rules is None else {name: repr(spec) for name, spec in rules.items()}


@dataclass(slots=True, eq=False)
class _Work:
    """The steps; `progress` holds all that they leave."""

    model: nn.Module
    files: TensorFiles
    names: dict[str, str]
    progress: Progress
    budget: Budget
    max_shard_bytes: int

    def run(self, metrics: LayerMetrics, rules: Rules | None) -> ModelReport:
        scope = find_scope(self.model, rules, "compress_files", values=False)
        choices = [make_choice(item) for item in scope.items]
        require_sizes(choices, self.budget)
        self._curves(choices, metrics)
        known = [replace(c, error=np.array(self.progress.curves[c.item.name]), energy=1.0) for c in choices]
        plan = Plan(self.model, tuple(known), self.budget, "greedy", None, None, None, False)
        rows = plan.rows(None)
        writer = ShardWriter(
            self.progress.folder, self.max_shard_bytes, dict(self.progress.shards), self.progress.total_bytes
        )
        waiting = _Waiting()
        for choice, row in zip(known, rows, strict=True):
            if row >= 0 and choice.item.name not in self.progress.done:
                self._layer(choice, row, metrics, writer, waiting)
        taken = {f"{name}." for name in (*self.progress.layers, *waiting.layers)}
        for name in self.files:
            if name not in self.progress.done and not any(name == t + name.rpartition(".")[2] for t in taken):
                waiting.done.append(name)
                self._commit(writer.add({name: self.files.read(name)}), writer, waiting)
        self._commit(writer.flush(), writer, waiting)
        structure = {"layers": self.progress.layers, "opened": [], "aliases": self.progress.aliases}
        writer.finish({"tnkit.model": {"version": VERSION, "model": type(self.model).__name__, **structure}})
        return self._report(known, scope.left)

    def _curves(self, choices: list[Choice], metrics: LayerMetrics) -> None:
        """The errors of every layer, noted on disk."""
        missing = [c for c in choices if c.item.name not in self.progress.curves]
        for group in metrics.groups(missing):
            for choice in metrics.seen(group):
                with self._values(choice) as full:
                    self.progress.curves[choice.item.name] = metrics.with_errors(full).error.tolist()
            self.progress.write()

    @contextmanager
    def _values(self, choice: Choice) -> Iterator[Choice]:
        """The choice, whose layer has its values in the block."""
        layer, name = choice.item.layer, choice.item.name
        before = fill_(name, layer, self.files, self.names)
        try:
            require_weight(layer, name)
            yield choice
        finally:
            forget_(layer, before)

    def _layer(self, choice: Choice, row: int, metrics: LayerMetrics, writer: ShardWriter, waiting: _Waiting) -> None:
        name = choice.item.name
        with self._values(metrics.recalled(choice)) as full:
            built = build(full, row)
            made = None if n_params(built.module) >= choice.dense_params else built
            report = layer_report(full, made)
            layers = {} if made is None else with_twins(self.model, full, made.module)
        if made is None:
            return
        tensors = {f"{name}.{key}": value for key, value in made.module.state_dict().items()}
        for twin in choice.item.tied:
            tensors |= self._twin(twin, name, layers[twin], waiting)
        made_of = {n: m for n, m in layers.items() if isinstance(m, FactoredModule)}
        waiting.layers |= {n: {"kind": m.kind, "config": m.config()} for n, m in made_of.items()}
        waiting.reports.append(report.to_dict())
        waiting.done.append(name)
        self._commit(writer.add(tensors), writer, waiting)

    def _twin(self, twin: str, owner: str, module: nn.Module, waiting: _Waiting) -> dict[str, Tensor]:
        """What a tied layer has of its own: integer buffers, and its bias from the files."""
        found = {f"{twin}.{key}": value for key, value in module.named_buffers()}
        for key in dict(module.named_parameters()):
            full = f"{twin}.{key}"
            if key == "bias":
                found[full] = self.files.read(self.names.get(full, full))
            else:
                waiting.aliases[full] = f"{owner}.{key}"
        return found

    def _commit(self, written: bool, writer: ShardWriter, waiting: _Waiting) -> None:
        """Note what is on disk now."""
        if not written:
            return
        progress = self.progress
        progress.done += waiting.done
        progress.layers |= waiting.layers
        progress.aliases |= waiting.aliases
        progress.reports += waiting.reports
        progress.shards, progress.total_bytes = dict(writer.shards), writer.total_bytes
        progress.write()
        waiting.clear()

    def _report(self, choices: list[Choice], left: Mapping[str, str]) -> ModelReport:
        made = {row["name"]: row for row in self.progress.reports}
        layers = [_layer_report(c, made.get(c.item.name)) for c in choices]
        before, after = (sum(getattr(x, f"params_{when}") for x in layers) for when in ("before", "after"))
        whole, read = n_params(self.model), sum(size for _, size, _ in self.files.state())
        notes = () if any(x.weighted for x in layers) else ("no calibration data: the weights alone were fitted",)
        return ModelReport(
            layers=tuple(layers),
            params_before=whole,
            params_after=whole - before + after,
            scope_params_before=before,
            scope_params_after=after,
            bytes_before=read,
            bytes_after=self.progress.total_bytes,
            notes=(*notes, *(f"{name}: {why}" for name, why in list(left.items())[:5])),
        )


@dataclass(slots=True)
class _Waiting:
    """What is in the writer and not yet on disk."""

    done: list[str]
    layers: dict[str, Any]
    aliases: dict[str, str]
    reports: list[dict[str, Any]]

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.done, self.layers, self.aliases, self.reports = [], {}, {}, []


def _layer_report(choice: Choice, made: Mapping[str, Any] | None) -> LayerReport:
    if made is not None:
        return LayerReport(**{**made, "rank": tuple(made["rank"])})
    return layer_report(choice, None)


def _copy_rest(source: Path, folder: Path, progress: Progress) -> None:
    """The files that are no weights; the configuration of a Hugging Face model says what is compressed."""
    shutil.rmtree(folder / "metrics", ignore_errors=True)
    for file in source.rglob("*"):
        inside = file.relative_to(source)
        hidden = any(part.startswith(".") for part in inside.parts)
        if not file.is_file() or hidden or file.suffix in WEIGHTS or file.name in (SINGLE, INDEX):
            continue
        (folder / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / inside)
    config = folder / "config.json"
    if config.is_file():
        values = json.loads(config.read_text(encoding="utf-8"))
        structure = {"layers": progress.layers, "opened": [], "aliases": progress.aliases}
        mark = {"quant_method": QUANT_METHOD, "version": VERSION, "structure": structure}
        write_json(config, {**values, "quantization_config": mark})
