"""What became of an array or a model, as pieces of HTML: of a decomposition, a completion, a compressed model.

Example:
    >>> import numpy as np, tnkit as tk
    >>> from tnkit.report import summary
    >>> fit = tk.decompose(np.ones((4, 5, 6)), "tt", eps=1e-2)
    >>> "relative error" in summary.of_fit(fit)
    True
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tnkit.report import html
from tnkit.report.fit import FitReport
from tnkit.report.pictures import limits, stretched

__all__ = ["Described", "before_after", "bytes_text", "of_analysis", "of_completion", "of_fit", "of_model"]

#: More layers than this that stay dense for the same reason are counted, not listed.
SHOWN = 8


class Described(Protocol):
    """A report that says its values by name: a Completion or a ModelReport."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""


def of_fit(fit: FitReport) -> str:
    """A decomposition: its numbers, its tensors, and how the error fell."""
    sign = {"exact": "", "bound": "≤ ", "estimate": "≈ "}.get(fit.error_kind, "")
    tensors = [[k, " × ".join(map(str, t.shape)), f"{t.numel():,}"] for k, t in enumerate(fit.tensor.tensors())]
    return "\n".join(
        [
            html.facts(
                {
                    "format": fit.tensor.name,
                    "shape": " × ".join(map(str, fit.tensor.shape)),
                    "relative error": f"{sign}{fit.rel_error:.3g}",
                    "stored numbers": f"{fit.n_params:,}",
                    "times smaller": f"{fit.compression_ratio:,.1f}",
                    "stored bytes": bytes_text(fit.nbytes),
                    "time": f"{fit.elapsed_s:.3g} s",
                }
            ),
            html.paragraph(
                f"Asked: {fit.target or 'nothing'}. Method `{fit.method}`{': ' + fit.why if fit.why else ''}."
            ),
            html.paragraph(f"{fit.status}."),
            html.table(["tensor", "shape", "numbers"], tensors, numeric=(0, 2)),
            html.curve([info.error for info in fit.history], "relative error by step"),
        ]
    )


def of_completion(done: Described) -> str:
    """A completion: its numbers, and how the error on held-out entries fell."""
    values = done.to_dict()
    heldout = values.get("heldout_error")
    shown = {
        "format": values.get("format"),
        "shape": " × ".join(map(str, values.get("shape", ()))),
        "observed": _share(values),
        "relative error, held out": None if heldout is None else f"{heldout:.3g}",
        "ranks": ", ".join(map(str, values.get("ranks") or ())),
        "time": f"{values['elapsed_s']:.3g} s" if "elapsed_s" in values else None,
    }
    errors = [float(entry[1]) for entry in values.get("history", ()) if isinstance(entry, Sequence)]
    return "\n".join(
        [
            html.facts({name: value for name, value in shown.items() if value not in (None, "")}),
            html.paragraph(f"Method `{values.get('method')}`: {values.get('why', '')}."),
            html.paragraph(f"{values.get('status')}: {values.get('status_message', '')}."),
            html.curve(errors, "what the method makes small, by step"),
        ]
    )


def _share(values: Mapping[str, Any]) -> str | None:
    seen = values.get("observed_fraction")
    return None if seen is None else f"{seen:.1%} of {values['observed'] / seen:,.0f}" if seen else "nothing"


def of_model(report: Described) -> str:
    """A compressed model: its numbers, and a table of its layers."""
    values = report.to_dict()
    shown: dict[str, Any] = {
        "parameters": f"{values['params_before']:,} → {values['params_after']:,}",
        "of the layers in scope": f"{values['kept']:.1%} kept",
        "bytes": f"{bytes_text(values['bytes_before'])} → {bytes_text(values['bytes_after'])}",
    }
    if values.get("ms_before") is not None and values.get("ms_after") is not None:
        shown["one batch"] = f"{values['ms_before']:.3g} → {values['ms_after']:.3g} ms"
    if values.get("output_error") is not None:
        shown["relative error of the outputs"] = f"{values['output_error']:.3g}"
    if values.get("score_before") is not None and values.get("score_after") is not None:
        shown["score"] = f"{values['score_before']:.4g} → {values['score_after']:.4g}"
    left = Counter(layer["reason"] for layer in values["layers"] if not layer["compressed"])
    alike = {reason for reason, count in left.items() if count > SHOWN}
    shown_layers = [layer for layer in values["layers"] if layer["compressed"] or layer["reason"] not in alike]
    layers = [
        [
            layer["name"] or "(model)",
            layer["spec"] or "dense",
            " × ".join(map(str, layer["rank"])) or "–",
            f"{layer['params_before']:,}",
            f"{layer['params_after'] / max(layer['params_before'], 1):.1%}",
            f"{layer['rel_error']:.3g}" if layer["compressed"] else "–",
            _pair(layer["flops_before"], layer["flops_after"], ",d"),
            _pair(layer["ms_before"], layer["ms_after"], ".3g"),
            layer["reason"],
        ]
        for layer in shown_layers
    ]
    kept = [min(layer["params_after"] / max(layer["params_before"], 1), 1.0) for layer in shown_layers]
    wrong = [layer["rel_error"] for layer in shown_layers]
    errors = [e / max(max(wrong, default=0.0), 1e-300) for e in wrong]
    head = ["layer", "becomes", "rank", "parameters", "kept", "relative error", "FLOPs", "ms", "remark"]
    return "\n".join(
        [
            html.facts(shown),
            *(html.paragraph(str(note)) for note in values.get("notes", ())),
            html.table(head, layers, numeric=range(2, 8), bars={4: kept, 5: errors}),
            *(html.paragraph(f"{left[reason]} layers stay dense: {reason}.") for reason in left if reason in alike),
        ]
    )


def of_analysis(found: Described) -> str:
    """A model as it is: its numbers, the spectra of its layers, and a table of them."""
    values = found.to_dict()
    layers, ratios = values["layers"], values["ratios"]
    there = sum(layer["params"] for layer in layers)
    shown: dict[str, Any] = {
        "parameters": f"{values['params']:,}",
        "of these in scope": f"{there / max(values['params'], 1):.1%}",
        "bytes": bytes_text(values["bytes"]),
    }
    if values["ms"] is not None:
        shown["one batch"] = f"{values['ms']:.3g} ms"
    spectra = {layer["name"]: layer["seen_spectrum"] or layer["spectrum"] for layer in layers}
    errors = {layer["name"]: [e for e in layer["errors"] if e] for layer in layers}
    ms = [layer["ms"] or 0.0 for layer in layers]
    felt = [layer["sensitivity"] or 0.0 for layer in layers]
    head = ["layer", "type", "shape", "parameters", "stable rank", "tail", *(f"error at {r:g}" for r in ratios)]
    rows = [
        [
            layer["name"] or "(model)",
            layer["kind"],
            " × ".join(map(str, layer["shape"])),
            f"{layer['params']:,}",
            f"{layer['stable_rank']:.1f}",
            _number(layer["heavy_tail"], ".2f"),
            *(_number(e, ".3f") for e in layer["errors"]),
            _number(layer["sensitivity"], ".1%"),
            _number(layer["ms"], ".3g"),
        ]
        for layer in layers
    ]
    width = len(head)
    bars = {
        width: [v / max(max(felt, default=0.0), 1e-300) for v in felt],
        width + 1: [v / max(max(ms, default=0.0), 1e-300) for v in ms],
    }
    return "\n".join(
        [
            html.facts(shown),
            *(html.paragraph(str(note)) for note in values["notes"]),
            html.curves(spectra, "singular values of the layers as their inputs see them, over the share of the rank"),
            html.curves(errors, f"relative error of the layers' outputs, at {', '.join(f'{r:g}' for r in ratios)}"),
            html.table([*head, "felt", "ms"], rows, numeric=range(3, width + 2), bars=bars),
        ]
    )


def _pair(before: float | None, after: float | None, form: str) -> str:
    return "–" if before is None or after is None else f"{before:{form}} → {after:{form}}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def before_after(
    before: Any, after: Any, captions: tuple[str, str] = ("before", "after"), *, gain: float = 10.0
) -> str:
    """Two pictures on one scale, and their difference, enlarged.

    Args:
        before: (h, w) or (h, w, 3) of any values.
        after: of the same shape.
        captions: of the two.
        gain: the difference is drawn this many times as strong.
    """
    low, high = limits(before)
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    drawn = np.clip(0.5 + gain * difference / (2 * (high - low)), 0.0, 1.0)
    return html.figures(
        html.figure(stretched(before, low, high), captions[0]),
        html.figure(stretched(after, low, high), captions[1]),
        html.figure(drawn, f"difference, {gain:g} times as strong"),
    )


def bytes_text(n: float) -> str:
    """Bytes in the unit that reads best.

    Example:
        >>> bytes_text(2_500_000), bytes_text(12)
        ('2.5 MB', '12 bytes')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n:.0f} bytes"
