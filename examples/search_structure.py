"""Which tensor network suits an array? The front of (numbers, error), and why the smallest one won.

    python examples/search_structure.py --eps 0.05 --out build/front.png

Needs the extras `demo` (the data is in tensorly.datasets) and `plot`.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np

import tnkit as tk
import tnkit.interop.matplotlib  # gives `found` its plot


def fluorescence() -> np.ndarray:
    """(excitation, emission, sample, time): light that measured mixtures give off."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other packages say about themselves
        from tensorly.datasets import load_kinetic

        cube = np.asarray(load_kinetic()["tensor"])
    return np.nan_to_num(cube)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eps", type=float, default=0.05, help="relative error that must not be exceeded")
    parser.add_argument("--time-limit", type=float, default=20.0, metavar="SECONDS")
    parser.add_argument("--out", type=Path, default=Path("build/front.png"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    x = fluorescence()

    # 1. The formats that have a name, with the same promise.
    for name in ("cp", "tt", "tr", "tucker"):
        fit = tk.decompose(x, name, eps=options.eps)
        print(f"{name:7s} {fit.n_params:8,} numbers, error {fit.rel_error:.4f}")

    # 2. The search. Everything that it fits is kept in a file, from which a search that was stopped goes on.
    memory = options.out.with_suffix(".safetensors")
    found = tk.search(x, eps=options.eps, time_limit_s=options.time_limit, save=memory)
    print(found)

    # 3. What won, how it looks, and how much smaller anything could be.
    print(tk.explain(found))
    print(found.best.drawing())
    best = found.best.fit
    assert np.linalg.norm(np.asarray(best.tensor) - x) <= options.eps * np.linalg.norm(x)

    # 4. Every point of the front is a fit that can be used.
    found.plot().savefig(options.out)
    tk.save(best.tensor, options.out.with_name("smallest.safetensors"))
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
