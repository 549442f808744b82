"""A long table in which measurements are missing: fill them in, say how sure that is, and test it on what is known.

    python examples/complete_table.py --missing 0.5 --out build/serology.csv

Needs the extra `demo` (the data is in tensorly.datasets, the table is one of pandas).
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas

import tnkit as tk
from tnkit.interop.pandas import read_long


def serology() -> pandas.DataFrame:
    """How strongly antibodies of COVID-19 patients bind: a row for each (patient, antigen, receptor)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other packages say about themselves
        from tensorly.datasets import load_covid19_serology

        data = load_covid19_serology()
    cube, (_, antigens, receptors) = np.asarray(data["tensor"]), data["ticks"]
    index = pandas.MultiIndex.from_product([range(len(cube)), antigens, receptors])
    frame = pandas.Series(cube.ravel(), index=index.set_names(["patient", "antigen", "receptor"])).rename("signal")
    return frame.dropna().reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--missing", type=float, default=0.5, help="share of the rows that is taken out")
    parser.add_argument("--patients", type=int, default=438, help="take the first ones only")
    parser.add_argument("--out", type=Path, default=Path("build/serology.csv"))
    options = parser.parse_args()

    whole = serology()
    whole = whole[whole["patient"] < options.patients]
    hidden = np.random.default_rng(0).random(len(whole)) < options.missing

    # 1. A long table is entries with their places; what it has no row for is missing.
    table = read_long(whole[~hidden], ["patient", "antigen", "receptor"], "signal")
    print(f"{table.observations.shape}: {(~hidden).sum():,} of {np.prod(table.observations.shape):,} entries are known")

    # 2. The default chooses by entries that it holds out itself, and says what it expects to be off by.
    done = tk.complete(table.observations)
    print(done)
    filled = table.filled(done)  # a row for each patient, antigen and receptor

    # 3. Was that true? The rows that were taken out tell.
    answers, truth = np.asarray(table.predict(done, whole[hidden])), whole[hidden]["signal"].to_numpy()
    off = np.linalg.norm(answers - truth) / np.linalg.norm(truth)
    print(f"error on {len(truth):,} hidden rows {off:.3f}; expected {done.heldout_error:.3f}")

    # 4. With a deviation for each, from a Gaussian of rows and columns.
    sure = tk.complete(table.observations, method="gaussian")
    print(f"median deviation {np.median(sure.std(np.argwhere(np.ones(table.observations.shape)))):.3f}")

    options.out.parent.mkdir(parents=True, exist_ok=True)
    filled.to_csv(options.out, index=False)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
