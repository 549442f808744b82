"""What a model's layers would stand, as values that print as a table: before anything is compressed."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from tnkit.registry import provider

__all__ = ["Analysis", "LayerAnalysis"]


@dataclass(frozen=True, slots=True)
class LayerAnalysis:
    """One layer as it is.

    Attributes:
        name: in the model.
        kind: type of the layer.
        spec: the specification by which `errors` were found.
        shape: of its weight.
        params: of the layer, bias included.
        spectrum: singular values of the weight as a matrix (of all groups together), as shares of the largest.
        seen_spectrum: the same of W G^½, where G = XᵀX of the layer's inputs; () where it was given none.
        stable_rank: Σσ² / σ_1².
        heavy_tail: exponent of the spectrum's tail on square parts; see `tnkit.nn.heavy_tail`. NaN: too few values.
        errors: relative error of the layer's output (without inputs, of the weight) at each of the analysis' ratios;
            None where the layer does not get as small.
        weighted: whether inputs entered `errors`.
        ms: measured on random input of the shape that was seen, or None.
        sensitivity: what a relative error of this layer moves the model's outputs, as a share of all layers'; or None.
    """

    name: str
    kind: str
    spec: str
    shape: tuple[int, ...]
    params: int
    spectrum: tuple[float, ...]
    seen_spectrum: tuple[float, ...]
    stable_rank: float
    heavy_tail: float
    errors: tuple[float | None, ...]
    weighted: bool
    ms: float | None
    sensitivity: float | None


@dataclass(frozen=True, slots=True)
class Analysis:
    """A model as it is.

    Attributes:
        layers: those that can be compressed.
        ratios: shares of a layer's parameters at which `errors` are.
        params: of the whole model, shared ones once.
        bytes: of parameters and buffers of the whole model.
        ms: of the model on the first batch, or None.
        left: reason by name, for layers that look compressible and are not in scope.
        notes: what the caller should know.
    """

    layers: tuple[LayerAnalysis, ...]
    ratios: tuple[float, ...]
    params: int
    bytes: int
    ms: float | None
    left: dict[str, str]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able: NaN and infinity are None."""
        layers = [{k: _plain(v) for k, v in asdict(layer).items()} for layer in self.layers]
        return {**asdict(self), "ratios": list(self.ratios), "notes": list(self.notes), "layers": layers}

    def to_json(self, indent: int | None = 2) -> str:
        """The analysis as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

    def to_markdown(self) -> str:
        """A Markdown table and a list."""
        head = self._head()
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        lines += ["| " + " | ".join(self._row(layer)) + " |" for layer in self.layers]
        return "\n".join([*lines, "", *(f"- {line}" for line in self._summary())]) + "\n"

    def plot(self) -> Any:
        """Spectra, errors by ratio, sensitivity and time as one matplotlib figure.

        Raises:
            MissingExtraError: `import tnkit.interop.matplotlib` first; it needs the extra `plot`.
        """
        return provider("plot:matplotlib", "plot")(self)

    def __str__(self) -> str:
        """A table of the layers, and the sums."""
        rows = [self._head(), *(self._row(layer) for layer in self.layers)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        lines = [
            "  ".join(c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in rows
        ]
        return "\n".join([*(line.rstrip() for line in lines), "", *self._summary()])

    def _head(self) -> tuple[str, ...]:
        errors = (f"err {ratio:g}" for ratio in self.ratios)
        return ("layer", "type", "shape", "params", "stable rank", "tail", *errors, "felt", "ms")

    def _row(self, layer: LayerAnalysis) -> tuple[str, ...]:
        return (
            layer.name or "(model)",
            layer.kind,
            "x".join(map(str, layer.shape)),
            f"{layer.params:,}",
            f"{layer.stable_rank:.1f}",
            "-" if not math.isfinite(layer.heavy_tail) else f"{layer.heavy_tail:.2f}",
            *("-" if e is None else f"{e:.3f}" for e in layer.errors),
            "-" if layer.sensitivity is None else f"{layer.sensitivity:.1%}",
            "-" if layer.ms is None else f"{layer.ms:.3g}",
        )

    def _summary(self) -> list[str]:
        there = sum(layer.params for layer in self.layers)
        lines = [
            f"{len(self.layers)} layers in scope hold {there:,} of the model's {self.params:,} parameters "
            f"({there / max(self.params, 1):.1%}); {self.bytes:,} bytes in all"
        ]
        timed = [layer.ms for layer in self.layers if layer.ms is not None]
        if self.ms is not None and timed:
            lines.append(f"measured time of the first batch: {self.ms:.3g} ms, {sum(timed):.3g} ms in these layers")
        lines.append(
            "err r: relative error of the layer's output if r of its parameters stay; "
            "felt: what such an error moves the model's outputs, as a share of all layers'"
        )
        reasons = sorted(set(self.left.values()))
        lines += [f"{sum(r == why for r in self.left.values())} not in scope: {why}" for why in reasons]
        return lines + [f"note: {note}" for note in self.notes]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
