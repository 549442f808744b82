"""compress_blocks: fewer neurons and fewer dimensions of heads in every block of a transformer, from calibration data.

The attention's own code does not change: dimensions that are gone are zeros that no layer holds, and the MLP is really
smaller. What comes out is saved, loaded and recovered like any compressed model.

References:
    Lin et al., MoDeGPT: modular decomposition for large language model compression, arXiv 2408.09632.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tnkit.errors import OptionError
from tnkit.nn.batches import require_batches
from tnkit.nn.blocks.families import Block, blocks_in
from tnkit.nn.blocks.heads import output_energy, select_dimensions, truncate_values
from tnkit.nn.blocks.influence import shares_of
from tnkit.nn.blocks.nystroem import select_neurons
from tnkit.nn.calibrate import Seen, collect
from tnkit.nn.forms import MatrixForm, PartialForm, ResizedForm
from tnkit.nn.layers.layer_type import layer_type_of, parameter, require_weight
from tnkit.nn.layers.recipe import find_recipe
from tnkit.nn.measure import Before
from tnkit.nn.report import LayerReport, ModelReport
from tnkit.nn.sensitivity import Site
from tnkit.nn.specs import LowRankLayer
from tnkit.nn.stats import InputStats
from tnkit.nn.surgery import n_bytes, n_params, replaced, swap_

__all__ = ["PARTS", "compress_blocks"]

PARTS = ("mlp", "qk", "vo")


def compress_blocks(
    model: nn.Module,
    keep: float,
    calib: Iterable[Any],
    *,
    parts: Collection[str] = PARTS,
    spread: float = 0.0,
    inplace: bool = False,
    measure: bool = True,
) -> tuple[nn.Module, ModelReport]:
    """Compress the blocks of a transformer of a known family (Llama, OPT, GPT-2, BERT and those of their pattern).

    Args:
        model: with a configuration that tells its heads.
        keep: share of the neurons and of the dimensions of heads that stays, in (0, 1].
        calib: batches as in `compress`.
        parts: of "mlp" (neurons), "qk" (dimensions of queries and keys) and "vo" (of values and outputs).
        spread: 0: all blocks alike; otherwise the temperature at which blocks that change their input little give more
            (about 0.1); the mean stays `keep`.
        inplace: change the model itself.
        measure: time the model, and run the first batch for the error of its outputs.

    Returns:
        (model, report): a layer for each part, with its relative error on the calibration data.

    Raises:
        OptionError: no such family, or an option out of its range.
        DataError: no batch, or one that the model does not take.

    Cost:
        One pass over `calib` (two with `spread`), and an eigendecomposition for each part; second moments of all
        layers are in memory.

    Example:
        >>> import torch
        >>> from tnkit import nn as tnn
        >>> from transformers import BertConfig, BertModel
        >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        >>> model = BertModel(BertConfig(vocab_size=50, **sizes)).eval()
        >>> small, report = tnn.compress_blocks(model, 0.5, [{"input_ids": torch.arange(20).reshape(2, 10)}])
        >>> report.kept < 0.55, small.encoder.layer[0].intermediate.dense.out_features
        (True, 16)
    """
    if not 0.0 < keep <= 1.0 or not set(parts) <= set(PARTS) or not parts or spread < 0:
        raise OptionError(
            f"compress_blocks: keep={keep}, parts={tuple(parts)}, spread={spread}. Use keep in (0, 1], some of "
            f"{', '.join(PARTS)}, and a spread of 0 or more."
        )
    blocks = blocks_in(model)
    batches = list(require_batches(calib, "compress_blocks"))
    shares = shares_of(model, blocks, batches, keep, spread)
    sites = {
        path: Site(layer, find_recipe(layer, LowRankLayer(), path))
        for block in blocks
        for path in (block.path(part) for part in block.family.parts)
        for layer in (model.get_submodule(path),)
    }
    seen = collect(model, sites, batches, "compress_blocks").seen
    before = Before.of(model, batches[0] if measure else None)
    pairs = zip(blocks, shares, strict=True)
    found = [part for block, share in pairs for part in _block(model, block, share, seen, parts)]
    layers = {part.path: part.module for part in found}
    reports = [_report(model, part) for part in found]
    made = swap_(model, layers) if inplace else replaced(model, layers)
    return made, before.report(made, reports, len(reports), ())


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A layer of a block and what takes its place."""

    path: str
    module: nn.Module
    spec: str
    count: int
    rel_error: float
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A layer read as y = W x + b, with the moments of its inputs."""

    path: str
    layer: nn.Module
    weight: Tensor
    bias: Tensor | None
    stats: InputStats

    @staticmethod
    def of(model: nn.Module, path: str, seen: dict[str, Seen]) -> _Layer | None:
        what = seen.get(path)
        if what is None or what.stats is None or what.stats.counts_rows:
            return None
        layer = model.get_submodule(path)
        weight = find_recipe(layer, LowRankLayer(), path).view(layer).blocks(require_weight(layer, path))[0]
        bias = getattr(layer, "bias", None)
        return _Layer(path, layer, weight.to(torch.float64), bias.detach() if bias is not None else None, what.stats)

    def with_form(self, form: MatrixForm, tensors: dict[str, Tensor], bias: Tensor | None) -> nn.Module:
        """The module with this form in the layer's place."""
        kind, like = layer_type_of(self.layer), self.layer.weight
        assert kind is not None
        assert isinstance(like, Tensor)
        module = kind.empty(self.layer, form, "factored")
        module.part = parameter(tensors.pop("part"), like)
        for name, value in tensors.items():
            setattr(module, name, value.to(like.device))
        if bias is not None:
            module.bias = parameter(bias, like)
        return module


def _block(model: nn.Module, block: Block, share: float, seen: dict[str, Seen], parts: Collection[str]) -> list[_Part]:
    """The parts of one block; what is not to change, or was not called, is not among them."""
    family, found = block.family, list[_Part]()
    layers = {part: _Layer.of(model, block.path(part), seen) for part in family.parts}
    known = {part: layer for part, layer in layers.items() if layer is not None}
    if "mlp" in parts and all(part in known for part in (*family.ups, family.down)):
        found += _mlp([known[part] for part in family.ups], known[family.down], share)
    heads = [family.queries, family.keys, family.values, family.output]
    if {"qk", "vo"} & set(parts) and all(part in known for part in heads):
        names = {n for n, _ in model.get_submodule(block.name).named_modules()}
        fits = not any(name.rpartition(".")[2] in family.unfit for name in names)
        found += _attention(block, [known[part] for part in heads], share, "qk" in parts and fits, "vo" in parts)
    return found


def _mlp(ups: list[_Layer], down: _Layer, share: float) -> list[_Part]:
    """Fewer neurons."""
    width = down.weight.shape[1]
    count = max(1, int(share * width))
    if count == width:
        return []
    kept = select_neurons(down.weight, down.stats, count, centred=down.bias is not None)
    found = []
    for up in ups:
        bias = None if up.bias is None else up.bias[kept.index]
        form = ResizedForm(count, up.weight.shape[1])
        module = up.with_form(form, {"part": up.weight[kept.index]}, bias)
        found.append(_Part(up.path, module, "neurons", count, 0.0, "its error is that of the layer after it"))
    bias = None if down.bias is None else down.bias.double() + kept.shift
    module = down.with_form(ResizedForm(down.weight.shape[0], count), {"part": kept.weight}, bias)
    return [*found, _Part(down.path, module, "Nystroem", count, kept.rel_error)]


def _attention(block: Block, layers: list[_Layer], share: float, qk: bool, vo: bool) -> list[_Part]:
    """Fewer dimensions of heads."""
    heads, rotary = block.heads, block.family.rotary
    count = max(1, int(share * heads.size))
    pairs = max(2, 2 * (count // 2)) if rotary else count
    if count == heads.size:
        return []
    *inner, output = layers
    widths = (heads.queries * heads.size, heads.keys * heads.size, heads.keys * heads.size)
    begins = (0, widths[0], widths[0] + widths[1]) if block.fused else (0, 0, 0)
    rows = [_Rows.of(x, begin, width) for x, begin, width in zip(inner, begins, widths, strict=True)]
    found = []
    if qk and pairs < heads.size:
        energies = [output_energy(r.weight, r.bias, inner[0].stats) for r in rows[:2]]
        chosen = select_dimensions(energies[0], energies[1], heads, pairs, rotary=rotary)
        for k, repeat in ((0, heads.queries // heads.keys), (1, 1)):
            rows[k] = rows[k].keep(_positions(chosen.repeat_interleave(repeat, 0), heads.size), energies[k], pairs)
    if vo:
        new, read, error = truncate_values(rows[2].with_bias(), output.weight, output.stats, heads, count)
        first = torch.arange(count)
        rows[2] = rows[2].put(_positions(first.expand(heads.keys, count), heads.size), new, count)
        kept = _positions(first.expand(heads.queries, count), heads.size)
        m, n = output.weight.shape
        module = output.with_form(PartialForm(m, n, len(kept), "columns"), {"part": read, "kept": kept}, output.bias)
        found.append(_Part(output.path, module, "VO-SVD", count, error))
    groups = [rows] if block.fused else [[r] for r in rows]
    return [part for group, layer in zip(groups, inner, strict=False) for part in _given(layer, group)] + found


def _positions(inside: Tensor, size: int) -> Tensor:
    """(heads, count) positions in a head as positions in the rows of all heads."""
    return (inside + size * torch.arange(len(inside))[:, None]).flatten()


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows of a layer that give queries, keys or values, and which of them are kept.

    Attributes:
        weight: (width, n) as they were.
        bias: (width,) as it was, or None.
        kept: sorted positions, or None for all.
        part: (kept, n) what they are now.
        new_bias: (width,), zero where nothing is kept.
        rel_error: of these rows' outputs; 0 where another layer's error says it.
        count: dimensions a head.
    """

    weight: Tensor
    bias: Tensor | None
    kept: Tensor | None
    part: Tensor
    new_bias: Tensor | None
    rel_error: float = 0.0
    count: int = 0

    @staticmethod
    def of(layer: _Layer, begin: int, width: int) -> _Rows:
        rows = slice(begin, begin + width)
        bias = None if layer.bias is None else layer.bias[rows].double()
        return _Rows(layer.weight[rows], bias, None, layer.weight[rows], bias)

    def with_bias(self) -> Tensor:
        return self.weight if self.bias is None else torch.cat([self.weight, self.bias[:, None]], dim=1)

    def keep(self, kept: Tensor, energy: Tensor, count: int) -> _Rows:
        """Only these rows, as they were."""
        bias = None if self.bias is None else torch.zeros_like(self.bias).index_copy(0, kept, self.bias[kept])
        lost = 1.0 - float(energy[kept].sum() / energy.sum().clamp_min(1e-300))
        return _Rows(self.weight, self.bias, kept, self.weight[kept], bias, max(lost, 0.0) ** 0.5, count)

    def put(self, kept: Tensor, rows: Tensor, count: int) -> _Rows:
        """Other rows at these positions; the last column is their bias where there is one."""
        if self.bias is None:
            return _Rows(self.weight, None, kept, rows, None, 0.0, count)
        bias = torch.zeros_like(self.bias).index_copy(0, kept, rows[:, -1])
        return _Rows(self.weight, self.bias, kept, rows[:, :-1], bias, 0.0, count)


def _given(layer: _Layer, rows: list[_Rows]) -> list[_Part]:
    """The layer that gives these rows one after the other, if any of them changed."""
    if all(r.kept is None for r in rows):
        return []
    begins = [sum(len(r.weight) for r in rows[:k]) for k in range(len(rows))]
    kept = torch.cat(
        [b + (torch.arange(len(r.weight)) if r.kept is None else r.kept) for b, r in zip(begins, rows, strict=True)]
    )
    m, n = layer.weight.shape
    biases = [r.new_bias for r in rows if r.new_bias is not None]
    tensors = {"part": torch.cat([r.part for r in rows]), "kept": kept}
    module = layer.with_form(PartialForm(m, n, len(kept), "rows"), tensors, torch.cat(biases) if biases else None)
    count, error = max(r.count for r in rows), max(r.rel_error for r in rows)
    return [_Part(layer.path, module, "CR" if error > 0 else "VO-SVD", count, error)]


def _report(model: nn.Module, part: _Part) -> LayerReport:
    old, new = model.get_submodule(part.path), part.module
    return LayerReport(
        name=part.path,
        kind=type(old).__name__,
        spec=part.spec,
        rank=(part.count,),
        compressed=True,
        reason=part.reason,
        params_before=n_params(old),
        params_after=n_params(new),
        bytes_before=n_bytes(old),
        bytes_after=n_bytes(new),
        rel_error=part.rel_error,
        weighted=True,
    )
