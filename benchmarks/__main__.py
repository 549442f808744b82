"""Run the benchmarks: `python -m benchmarks [--quick] [--only TEXT] [--out FOLDER] [--chart FOLDER]`.

Each module runs in a process of its own, one after the other, and writes its figures as JSON; then `bars` says what was
asked for and what was seen. The whole takes about half an hour, the quick one a minute. Those of models and
layers take minutes each: they run where `--only` gives their name, such as `--only encoder`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.bars import report
from benchmarks.chart import draw
from benchmarks.harness import screen

#: In this order; those that others' claims rest on first.
MODULES = (
    "bench_decompose",
    "bench_scaling",
    "bench_als",
    "bench_params",
    "bench_cross",
    "bench_outofcore",
    "bench_sparse",
    "bench_search",
)
#: Of models and layers, and what parts of the searches save; only by name.
LONG = (
    "bench_encoder",
    "bench_language",
    "bench_vision",
    "bench_matrices",
    "bench_layers",
    "bench_search_ablation",
    "bench_search_layers",
    "bench_search_planted",
    "bench_search_completion",
)


def main() -> int:
    """Measure and show; the exit status tells whether everything ran, whatever the times are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure tnkit beside other libraries.")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--only", default="", help="only modules whose name holds this")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where the figures go (default out/)")
    parser.add_argument("--chart", type=Path, default=None, help="where the charts go (default: beside the figures)")
    asked = parser.parse_args()
    console, failed = screen(), []
    wanted = [name for name in MODULES if asked.only in name]
    wanted += [name for name in LONG if asked.only in (name, name.removeprefix("bench_"))]
    for name in wanted:
        console.rule(name)
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(asked.out / f"{name}.json")]
        if subprocess.run([*command, *(["--quick"] if asked.quick else [])], check=False).returncode:
            failed.append(name)
    console.rule("bars")
    report(asked.out, console)
    for path in draw(asked.out, asked.chart or asked.out):
        console.print(f"chart: {path}")
    if failed:
        console.print(f"did not finish: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
