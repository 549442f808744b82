"""Take 70 % of the pixels out of a photograph, and fill them in again.

    python examples/complete_photo.py --missing 0.7 --out build/astronaut.png

Needs the extra `demo` (the photograph is in scikit-image).
"""

import argparse
from pathlib import Path

import numpy as np
from skimage import data

import tnkit as tk
from tnkit.array_files import write_array
from tnkit.report.pictures import psnr, with_holes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--missing", type=float, default=0.7, help="share of the pixels that is taken out")
    parser.add_argument("--format", default="auto")
    parser.add_argument("--step", type=int, default=2, help="take every STEP-th pixel of the photograph")
    parser.add_argument("--time-limit", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--out", type=Path, default=Path("build/astronaut.png"))
    options = parser.parse_args()

    photo = data.astronaut()[:: options.step, :: options.step] / 255.0  # (height, width, 3) of 0 … 1
    height, width, _ = photo.shape

    # 1. The holes: whole pixels are missing, and missing is NaN.
    missing = np.random.default_rng(0).random((height, width)) < options.missing
    holes = photo.copy()
    holes[missing] = np.nan

    # 2. Complete. Ranks grow while the error on held-out pixels falls; what is observed stays as it is.
    done = tk.complete(holes, options.format, time_limit_s=options.time_limit)
    print(done)
    filled = done.filled  # NumPy in, NumPy out
    assert np.array_equal(filled[~missing], photo[~missing])

    # 3. How good is it? Against the truth, and against the obvious thing.
    mean = np.where(missing[:, :, None], np.nanmean(holes, axis=(0, 1)), photo)
    print(f"{missing.mean():.0%} of {height} x {width} pixels were missing")
    print(f"PSNR {psnr(np.clip(filled, 0, 1), photo):.2f} dB; with the mean colour {psnr(mean, photo):.2f} dB")

    # 4. The photograph, what was left of it, and what came back, side by side.
    options.out.parent.mkdir(parents=True, exist_ok=True)
    strip = np.hstack([photo, with_holes(photo, ~missing), np.clip(filled, 0, 1)])
    write_array(options.out, np.round(255 * strip).astype(np.uint8))
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
