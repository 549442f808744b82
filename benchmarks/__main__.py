"""Run the benchmarks: `python -m benchmarks [--quick] [--case TEXT] [--who TEXT] [--runs N] [--json PATH]`."""

import argparse
import importlib
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.harness import Results, machine, measure

MODULES = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
PACKAGES = ("tensorly", "quimb", "torchtt", "tntorch", "pyttb")


def main() -> int:
    """Measure and show; the exit status is 0 whatever the times are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure tnkit beside other libraries.")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    parser.add_argument("--who", default="", help="only contenders whose name holds this")
    parser.add_argument(
        "--runs", type=int, default=5, help="measured runs of each (default 5; fewer where they are long)"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("out/bench.json"), help="where to write (default out/bench.json)"
    )
    asked = parser.parse_args()

    console = Console(width=None if sys.stdout.isatty() else 120)
    results = Results(machine(PACKAGES))
    console.print(results.machine)
    for name in MODULES:
        for case in importlib.import_module(f"benchmarks.{name}").cases(quick=asked.quick):
            if asked.case in case.name:
                console.print(f"… {case.name}")
                results.rows += measure(case, results.machine, runs=asked.runs, only=asked.who)
                results.write(asked.json)
    results.print(console)
    console.print(f"written to {asked.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
