"""A photograph with most of its pixels gone, completed."""

import numpy as np
from scipy.interpolate import NearestNDInterpolator
from skimage import data

import tnkit as tk
from tnkit.report import html, summary
from tnkit.report.pictures import psnr, with_holes

MISSING = 0.7
SECONDS = 40.0


def part(quick: bool = False) -> str:
    """The section of the report."""
    photo = data.astronaut()[:: 8 if quick else 2, :: 8 if quick else 2] / 255.0
    height, width, _ = photo.shape
    missing = np.random.default_rng(0).random((height, width)) < MISSING
    holes = photo.copy()
    holes[missing] = np.nan
    done = tk.complete(holes, time_limit_s=2.0 if quick else SECONDS)
    filled = np.clip(done.filled, 0.0, 1.0)
    mean = np.where(missing[:, :, None], np.nanmean(holes, axis=(0, 1)), photo)
    nearest = NearestNDInterpolator(np.argwhere(~missing), photo[~missing])(np.argwhere(np.ones_like(missing)))
    rows = [
        [name, f"{psnr(image, photo):.2f} dB", f"{psnr(image[missing], photo[missing]):.2f} dB"]
        for name, image in (
            ("the mean colour in the holes", mean),
            ("the nearest pixel that is left", nearest.reshape(photo.shape)),
            (f"tk.complete ({done.method})", filled),
        )
    ]
    for name, whole, _ in rows:
        print(f"  {name}: {whole}")
    return html.section(
        "A photograph, completed",
        html.paragraph(
            f"The astronaut Eileen Collins (NASA), {height} × {width} pixels, of which {missing.mean():.0%} were "
            "taken out at random. Nothing was learned from other pictures: the rest of this one is all there is."
        ),
        html.figures(
            html.figure(photo, "the photograph"),
            html.figure(with_holes(photo, ~missing), f"what is left of it: {1 - missing.mean():.0%}"),
            html.figure(filled, f"completed: {psnr(filled, photo):.2f} dB"),
        ),
        html.table(["filled with", "PSNR", "PSNR in the holes alone"], rows, numeric=(1, 2), best={1: 2}),
        summary.of_completion(done),
    )
