"""Decompose a hyperspectral image (Indian Pines: 145 x 145 pixels, 200 bands) to a given error, and use the result.

    python examples/decompose_hyperspectral.py --eps 0.05 --out build/indian_pines.safetensors

Needs the extra `demo` (the image is in tensorly.datasets).
"""

import argparse
import warnings
from pathlib import Path

import numpy as np

import tnkit as tk


def indian_pines(step: int) -> np.ndarray:
    """(rows, columns, bands) of radiances, every `step`-th pixel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other packages say about themselves
        from tensorly.datasets import load_indian_pines

        cube = np.asarray(load_indian_pines()["tensor"], dtype=np.float32)
    return np.ascontiguousarray(cube[::step, ::step])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eps", type=float, default=0.05, help="relative error that must not be exceeded")
    parser.add_argument("--formats", nargs="+", default=["tt", "tucker", "ht", "tr"])
    parser.add_argument("--step", type=int, default=1, help="take every STEP-th pixel")
    parser.add_argument("--out", type=Path, default=Path("build/indian_pines.safetensors"))
    options = parser.parse_args()

    cube = indian_pines(options.step)
    print(f"{cube.shape[0]} x {cube.shape[1]} pixels, {cube.shape[2]} bands: {cube.size:,} numbers\n")

    # 1. One call for every format; the error is a promise.
    fits = {name: tk.decompose(cube, name, eps=options.eps) for name in options.formats}
    for name, fit in fits.items():
        print(
            f"{name:>8}: {fit.n_params:>9,} numbers, {fit.compression_ratio:6.1f} times smaller, "
            f"error {fit.rel_error:.4f}, {fit.elapsed_s:.2f} s"
        )
        assert fit.rel_error <= options.eps

    # 2. The smallest one, in detail.
    best = min(fits.values(), key=lambda fit: fit.n_params)
    print(f"\n{best}\n")

    # 3. It computes without becoming dense: one band, one pixel's spectrum, the mean of all.
    tensor = best.tensor
    band = np.asarray(tensor[:, :, 30].to_dense())
    spectrum = np.asarray(tensor[10, 20].to_dense())
    mean = float(tensor.sum()) / cube.size
    print(f"band 30: {band.shape}, off by {np.linalg.norm(band - cube[:, :, 30]) / np.linalg.norm(cube[:, :, 30]):.4f}")
    print(f"spectrum of pixel (10, 20): {spectrum.shape}; mean of all: {mean:.1f} (truly {cube.mean(dtype=float):.1f})")

    # 4. To a file and back.
    options.out.parent.mkdir(parents=True, exist_ok=True)
    tk.save(tensor, options.out)
    again = tk.load(options.out)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes; read again: {again}")


if __name__ == "__main__":
    main()
