"""From an engine tensor and a spec to a report: scaling, zero arrays, the method, the true error, the status."""

from __future__ import annotations

import time
from dataclasses import replace
from math import log2, sqrt
from typing import Any

import torch
from torch import Tensor

from tnkit.arrays import HALF, machine_eps
from tnkit.decompose.base import Fit, Method, Problem, Target
from tnkit.decompose.choose import as_method
from tnkit.decompose.measure import relative_error
from tnkit.formats import Format, FormatSpec, Layout
from tnkit.linalg import energy
from tnkit.report import FitReport
from tnkit.solvers import DIRECT, EPS_NOT_REACHED, FLOOR, Control, Status

__all__ = ["error_floor", "report_of", "run", "scaled"]

#: Entries up to which iterative methods get a copy whose norm is near 1.
SMALL = 2**20

#: Norms in between these have squares that are safe in every engine dtype.
SAFE_NORMS = {torch.float32: (1e-12, 1e12), torch.float64: (1e-100, 1e100)}
SAFE_NORMS |= {torch.complex64: SAFE_NORMS[torch.float32], torch.complex128: SAFE_NORMS[torch.float64]}


def scaled(x: Tensor, norm: float) -> tuple[Tensor, float, float]:
    """The array with a norm whose square is safe.

    Args:
        x: finite values.
        norm: of them, possibly 0 or inf where squares left the range.

    Returns:
        The array (the same one where nothing had to be done), its norm, and the factor that was divided out.
        A zero array comes back with norm 0.
    """
    low, high = SAFE_NORMS[x.dtype]
    if low <= norm <= high:
        return x, norm, 1.0
    plain = x.detach()
    parts = torch.view_as_real(plain) if plain.is_complex() else plain
    factor = float(parts.abs().amax())
    if factor == 0.0:
        return x, 0.0, 1.0
    safe = x / factor
    return safe, sqrt(energy(safe)), factor


def error_floor(dtype: torch.dtype, ndim: int) -> float:
    """The relative error below which rounding of this dtype decides, not the method."""
    return 32.0 * machine_eps(dtype) * sqrt(max(1, ndim))


def run(
    x: Tensor,
    norm: float,
    spec: FormatSpec,
    layout: Layout,
    target: Target,
    *,
    method: Any = "auto",
    rng: torch.Generator,
    control: Control,
    dtype: torch.dtype | None = None,
    asked: str = "",
) -> FitReport:
    """Decompose an engine tensor.

    Args:
        x: finite values of the user's shape.
        norm: as `require_finite` gives it.
        spec: the structure.
        layout: `spec.layout(x.shape)`.
        target: what is asked, in entries.
        method: "auto", a name or a config.
        rng: random numbers.
        control: deadline and progress.
        dtype: of the result, where it is a half type.
        asked: the target in words, for the report.
    """
    begun = time.perf_counter()
    chosen, why = as_method(method, layout, target)
    safe, safe_norm, factor = scaled(x, norm)
    if chosen.iterative and safe_norm > 0.0 and x.numel() <= SMALL:
        # what an iteration does then depends on no unit: c·x takes the same steps (dividing by a power of 2 is exact)
        unit = 2.0 ** round(log2(safe_norm))
        safe, safe_norm, factor = safe / unit, safe_norm / unit, factor * unit
    if safe_norm == 0.0:
        fit = Fit(tuple(x.new_zeros(s) for s in layout.shapes((1,) * len(layout.bonds))), 0.0)
        return report_of(layout.build(fit.tensors), fit, target, chosen, why, begun, asked)
    problem = Problem(layout.tensorize(safe), safe_norm, layout, spec, target, rng, control)
    fit = chosen.fit(problem)
    value = layout.build(fit.tensors)
    padded = layout.tensorization is not None and layout.tensorization.pads
    if dtype in HALF:
        value = value.to(dtype)
    if fit.rel_error is None or padded or dtype in HALF:
        fit = replace(fit, rel_error=relative_error(safe, value, norm=safe_norm), error_kind="exact")
    if factor != 1.0:
        value = value * factor
    return report_of(value, fit, target, chosen, why, begun, asked)


def report_of(
    value: Format,
    fit: Fit,
    target: Target,
    method: Method,
    why: str,
    begun: float,
    asked: str,
    evaluations: int | None = None,
) -> FitReport:
    """The report of a fit whose error is known: an eps that was missed is never called a success."""
    error = 0.0 if fit.rel_error is None else fit.rel_error
    status = _status(fit.status, error, target, value)
    elapsed = time.perf_counter() - begun
    return FitReport(value, error, fit.error_kind, status, method.name, why, elapsed, fit.history, asked, evaluations)


def _status(status: Status, error: float, target: Target, value: Format) -> Status:
    """An eps that was missed is never called a success."""
    if target.eps is None or error <= target.eps * (1 + 1e-9):
        return DIRECT if status in (EPS_NOT_REACHED, FLOOR) else status
    if error <= max(target.eps, error_floor(value.dtype, value.ndim)):
        return FLOOR
    return EPS_NOT_REACHED if status.ok else status
