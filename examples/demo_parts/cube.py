"""A hyperspectral image, decomposed at one error in every format that takes it."""

import contextlib
import io
import warnings

import numpy as np

import tnkit as tk
from tnkit.registry import FORMATS
from tnkit.report import FitReport, html, summary
from tnkit.report.pictures import limits, stretched

EPS = 0.05
SECONDS = 5.0  # for each format
BANDS = (20, 120)  # blue-green light, and infrared
COLOURS = (160, 120, 20)  # bands drawn as red, green and blue


def indian_pines(step: int = 1) -> np.ndarray:
    """(rows, columns, bands) of radiances."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from tensorly.datasets import load_indian_pines

        cube = np.asarray(load_indian_pines()["tensor"], dtype=np.float32)
    return np.ascontiguousarray(cube[::step, ::step])


def attempt(cube: np.ndarray, name: str, seconds: float) -> FitReport | tk.TnkitError:
    try:
        return tk.decompose(cube, name, eps=EPS, time_limit_s=seconds)
    except tk.TnkitError as error:
        return error


def part(quick: bool = False) -> str:
    """The section of the report."""
    cube, seconds = indian_pines(4 if quick else 1), 1.0 if quick else SECONDS
    fits: dict[str, FitReport] = {}
    refused: list[tuple[str, str]] = []
    for name in FORMATS.names():
        found = attempt(cube, name, seconds)
        if isinstance(found, FitReport):
            fits[name] = found
            print(f"  {name:>8}: {found.n_params:>9,} numbers, error {found.rel_error:.4f}, {found.elapsed_s:6.2f} s")
        else:
            refused.append((name, str(found)))
    met = sorted((n for n in fits if fits[n].rel_error <= EPS), key=lambda n: fits[n].n_params)
    missed = sorted((n for n in fits if n not in met), key=lambda n: fits[n].rel_error)
    best = fits[met[0]]
    return html.section(
        "A hyperspectral image, decomposed",
        html.paragraph(
            f"Indian Pines, seen by AVIRIS in 1992: {cube.shape[0]} × {cube.shape[1]} pixels, {cube.shape[2]} bands, "
            f"{cube.size:,} numbers. Every format was asked for a relative error of {EPS:.0%} at the most, "
            f"iterative methods within {seconds:g} seconds. The errors are measured. "
            "The sharp jumps between neighbouring pixels in some bands stand in the data."
        ),
        table(cube, {name: fits[name] for name in (*met, *missed)}),
        *(html.paragraph(f"`{name}` does not take this array: {why}") for name, why in refused),
        html.paragraph(f"The smallest, `{met[0]}`: bands before and after, on one scale."),
        pictures(cube, best),
        html.details("All about it", repr(best)),
    )


def table(cube: np.ndarray, fits: dict[str, FitReport]) -> str:
    rows, largest = [], max(fit.n_params for fit in fits.values())
    for name, fit in fits.items():
        ranks = ", ".join(map(str, fit.ranks[:6])) + (" …" if len(fit.ranks) > 6 else "")
        size = [f"{fit.n_params:,}", f"{cube.size / fit.n_params:.1f}"]
        late = " in time" if fit.status.name == "time_limit" else ""
        remark = f"{EPS:.0%} not reached{late}" if fit.rel_error > EPS else ""
        rows.append([name, ranks or "–", *size, f"{fit.rel_error:.4f}", f"{fit.elapsed_s:.2f}", fit.method, remark])
    head = ["format", "ranks", "numbers", "times smaller", "error", "seconds", "method", ""]
    bars = {2: [fit.n_params / largest for fit in fits.values()]}
    return html.table(head, rows, numeric=(2, 3, 4, 5), bars=bars, best={2: 0})


def pictures(cube: np.ndarray, fit: FitReport) -> str:
    """Three bands as colours, and two bands alone, before and after."""
    back = np.asarray(fit.tensor.to_dense())
    bounds = [limits(cube[:, :, band]) for band in COLOURS]
    drawn = [
        np.stack([stretched(x[:, :, band], *ends) for band, ends in zip(COLOURS, bounds, strict=True)], axis=2)
        for x in (cube, back)
    ]
    names = f"bands {COLOURS[0]}, {COLOURS[1]} and {COLOURS[2]} as red, green and blue"
    bands = []
    for band in BANDS:
        before, after = cube[:, :, band], back[:, :, band]
        ends = limits(before)
        bands.append(html.figure(stretched(before, *ends), f"band {band}"))
        bands.append(html.figure(stretched(after, *ends), f"band {band}, {relative(after, before):.1%} off"))
    return summary.before_after(*drawn, (f"before: {names}", "after"), gain=3.0) + html.figures(*bands)


def relative(after: np.ndarray, before: np.ndarray) -> float:
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))
