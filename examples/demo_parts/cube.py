"""A hyperspectral image, decomposed at one error in every format that takes it."""

import contextlib
import io
import warnings
from typing import Any

import numpy as np

import tnkit as tk
from tnkit.registry import FORMATS
from tnkit.report import FitReport, html, summary
from tnkit.report.pictures import limits, stretched

EPS = 0.05
SECONDS = 8.0  # for each format
BANDS = (29, 90, 160)
COLOURS = (29, 19, 9)  # bands near red, green and blue


def indian_pines(step: int = 1) -> np.ndarray:
    """(rows, columns, bands) of radiances."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from tensorly.datasets import load_indian_pines

        cube = np.asarray(load_indian_pines()["tensor"], dtype=np.float32)
    return np.ascontiguousarray(cube[::step, ::step])


def attempt(cube: np.ndarray, name: str) -> FitReport | tk.TnkitError:
    try:
        return tk.decompose(cube, name, eps=EPS, time_limit_s=SECONDS)
    except tk.TnkitError as error:
        return error


def part(quick: bool = False) -> str:
    """The section of the report."""
    cube = indian_pines(4 if quick else 1)
    fits: dict[str, FitReport] = {}
    refused: list[tuple[str, str]] = []
    for name in FORMATS.names():
        found = attempt(cube, name)
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
            f"within {SECONDS:g} seconds. The errors are measured."
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
        remark = "" if fit.rel_error <= EPS else f"{EPS:.0%} not reached: {fit.status.name.replace('_', ' ')}"
        rows.append([name, ranks or "–", *size, f"{fit.rel_error:.4f}", f"{fit.elapsed_s:.2f}", fit.method, remark])
    head = ["format", "ranks", "numbers", "times smaller", "error", "seconds", "method", ""]
    bars = {2: [fit.n_params / largest for fit in fits.values()]}
    return html.table(head, rows, numeric=(2, 3, 4, 5), bars=bars, best={2: 0})


def pictures(cube: np.ndarray, fit: FitReport) -> str:
    """Three bands before and after, and three bands as colours."""
    pieces: list[str] = []
    for band in BANDS:
        before, after = cube[:, :, band], np.asarray(fit.tensor[:, :, band].to_dense())
        low, high = limits(before)
        pieces += [
            html.figure(stretched(before, low, high), f"band {band}", pixels=True),
            html.figure(stretched(after, low, high), f"band {band}, {relative(after, before):.1%} off", pixels=True),
        ]
    colours: list[Any] = [cube[:, :, COLOURS], np.asarray(fit.tensor.to_dense())[:, :, COLOURS]]
    bounds = [limits(colours[0][..., c]) for c in range(3)]
    drawn = [np.stack([stretched(x[..., c], *bounds[c]) for c in range(3)], axis=2) for x in colours]
    seen = [html.figure(drawn[0], "as colours, before", pixels=True), html.figure(drawn[1], "after", pixels=True)]
    difference = summary.before_after(cube[:, :, BANDS[0]], np.asarray(fit.tensor[:, :, BANDS[0]].to_dense()))
    return html.figures(*seen, *pieces) + html.paragraph("What is lost, in one band:") + difference


def relative(after: np.ndarray, before: np.ndarray) -> float:
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))
