"""Reports: what compressing layers cost and gained, as values that print as a table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from tnkit.registry import provider

__all__ = ["LayerReport", "ModelReport"]


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer, before and after.

    Attributes:
        name: in the model.
        kind: type of the layer.
        spec: the specification as it was carried out; "" for layers left dense.
        rank: that was chosen; () for layers left dense.
        compressed: whether the layer was replaced.
        reason: why it stays dense, or a remark.
        params_before: parameters, bias included; those of a tied weight are counted at its first layer.
        params_after: the same of what is there now.
        bytes_before: storage of parameters and buffers.
        bytes_after: the same of what is there now.
        flops_before: for the example input (two for each multiply-add), or None where no input is known.
        flops_after: the same of what is there now.
        ms_before: measured on the example input, or None.
        ms_after: measured on the example input, or None.
        rel_error: ‖(W − Ŵ)G^½‖/‖WG^½‖, the relative error of the layer's output on the calibration data; without
            calibration that of the weight.
        weighted: whether calibration data entered `rel_error`.
    """

    name: str
    kind: str
    spec: str
    rank: tuple[int, ...]
    compressed: bool
    reason: str
    params_before: int
    params_after: int
    bytes_before: int
    bytes_after: int
    flops_before: int | None = None
    flops_after: int | None = None
    ms_before: float | None = None
    ms_after: float | None = None
    rel_error: float = 0.0
    weighted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return {**asdict(self), "rank": list(self.rank)}

    def __str__(self) -> str:
        """One line."""
        return " ".join(_row(self))


@dataclass(frozen=True, slots=True)
class ModelReport:
    """A model, before and after.

    Attributes:
        layers: those in scope, and those that looked compressible and were left.
        params_before: of the whole model; shared parameters once.
        params_after: of the whole model.
        scope_params_before: of the layers in scope.
        scope_params_after: of the layers in scope.
        bytes_before: parameters and buffers of the whole model.
        bytes_after: parameters and buffers of the whole model.
        ms_before: measured on the first calibration batch, or None.
        ms_after: measured on the first calibration batch, or None.
        output_error: relative Frobenius error of the outputs on the first calibration batch, or None.
        score_before: of `eval_fn`, or None.
        score_after: of `eval_fn`, or None.
        notes: what the caller should know.
        n_scope: how many of the layers are in scope; they come first. None: all.
    """

    layers: tuple[LayerReport, ...]
    params_before: int
    params_after: int
    scope_params_before: int
    scope_params_after: int
    bytes_before: int
    bytes_after: int
    ms_before: float | None = None
    ms_after: float | None = None
    output_error: float | None = None
    score_before: float | None = None
    score_after: float | None = None
    notes: tuple[str, ...] = ()
    n_scope: int | None = None

    @property
    def kept(self) -> float:
        """Share of the parameters in scope that is left."""
        return self.scope_params_after / max(self.scope_params_before, 1)

    @property
    def flops_before(self) -> int | None:
        """Of the layers in scope on the example input; None where one is not known."""
        return _total([layer.flops_before for layer in self.layers[: self.n_scope]])

    @property
    def flops_after(self) -> int | None:
        """Of the layers in scope on the example input; None where one is not known."""
        return _total([layer.flops_after for layer in self.layers[: self.n_scope]])

    def to_dict(self) -> dict[str, Any]:
        """All fields and derived values, JSON-able."""
        derived = {"kept": self.kept, "flops_before": self.flops_before, "flops_after": self.flops_after}
        return {**asdict(self), **derived, "notes": list(self.notes), "layers": [x.to_dict() for x in self.layers]}

    def to_json(self, indent: int | None = 2) -> str:
        """The report as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

    def plot(self) -> Any:
        """Parameters, errors and milliseconds of the layers as one matplotlib figure.

        Raises:
            MissingExtraError: `import tnkit.interop.matplotlib` first; it needs the extra `plot`.
        """
        return provider("plot:matplotlib", "plot")(self)

    def to_markdown(self) -> str:
        """The report as a Markdown table and a list."""
        lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
        lines += ["| " + " | ".join(_row(layer)) + " |" for layer in self.layers]
        return "\n".join([*lines, "", *(f"- {line}" for line in self._summary())]) + "\n"

    def __str__(self) -> str:
        """A table of the layers, and the sums."""
        rows = [HEAD, *(_row(layer) for layer in self.layers)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(HEAD))]
        table = [
            "  ".join(
                cell.ljust(w) if k < 2 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*table, "", *self._summary()])

    def _summary(self) -> list[str]:
        lines = [
            f"parameters in scope: {self.scope_params_before:,} -> {self.scope_params_after:,} ({self.kept:.1%})",
            f"parameters of the model: {self.params_before:,} -> {self.params_after:,} "
            f"({self.params_after / max(self.params_before, 1):.1%})",
            f"bytes of the model: {self.bytes_before:,} -> {self.bytes_after:,}",
        ]
        if self.flops_before is not None and self.flops_after is not None:
            lines.append(f"FLOPs of the layers in scope, first batch: {self.flops_before:,} -> {self.flops_after:,}")
        if self.ms_before is not None and self.ms_after is not None:
            lines.append(f"measured time of the first batch: {self.ms_before:.2f} ms -> {self.ms_after:.2f} ms")
        if self.output_error is not None:
            lines.append(f"relative error of the outputs, first batch: {self.output_error:.4g}")
        if self.score_before is not None and self.score_after is not None:
            lines.append(f"eval_fn: {self.score_before:.6g} -> {self.score_after:.6g}")
        return lines + [f"note: {note}" for note in self.notes]


HEAD = ("layer", "becomes", "rank", "params", "kept", "rel. error", "ms", "remark")


def _row(layer: LayerReport) -> tuple[str, ...]:
    rank = "x".join(map(str, layer.rank)) or "-"
    params = f"{layer.params_before:,} -> {layer.params_after:,}"
    kept = f"{layer.params_after / layer.params_before:.1%}" if layer.params_before else "-"
    timed = layer.ms_before is not None and layer.ms_after is not None
    ms = f"{layer.ms_before:.3g} -> {layer.ms_after:.3g}" if timed else "-"
    error = f"{layer.rel_error:.4g}" if layer.compressed else "-"
    becomes = f"{layer.kind} -> {layer.spec}" if layer.compressed else f"{layer.kind}, dense"
    return layer.name or "(model)", becomes, rank, params, kept, error, ms, layer.reason


def _total(values: list[int | None]) -> int | None:
    known = [v for v in values if v is not None]
    return sum(known) if len(known) == len(values) and known else None
