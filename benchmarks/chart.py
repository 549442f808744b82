"""Charts of a finished run: `python -m benchmarks.chart [FOLDER WITH FIGURES] [FOLDER FOR CHARTS]`."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, best, read_rows

if find_spec("matplotlib"):
    from matplotlib.figure import Figure

KINDS = {"tnkit": "#0b6e4f", "exact": "#b8b8b8", "randomised": "#d9a441"}


def draw(figures: Path, charts: Path) -> list[Path]:
    """What can be drawn of the figures that are there; nothing without matplotlib."""
    if not find_spec("matplotlib"):
        return []
    charts.mkdir(parents=True, exist_ok=True)
    made = []
    dense, growth = figures / "bench_decompose.json", figures / "bench_scaling.json"
    if dense.exists():
        made.append(speed(read_rows(dense), charts / "speed.svg"))
    if growth.exists():
        made.append(scaling(json.loads(growth.read_text()), charts / "scaling.svg"))
    searches = figures / "bench_search.json"
    if searches.exists():
        made.append(fronts(json.loads(searches.read_text())["rows"], charts / "search.svg"))
    return made


def fronts(rows: list[dict[str, Any]], path: Path) -> Path:
    """Numbers against the true error, for each real array; tnkit and the others."""
    rows = [row for row in rows if row["n_params"] is not None and row["eps"] in (0.1, 0.05, 0.02)]
    counts = {case: len({row["eps"] for row in rows if row["case"] == case}) for case in {row["case"] for row in rows}}
    names = [case for case in dict.fromkeys(row["case"] for row in rows) if counts[case] == 3]
    figure = Figure(figsize=(4 * max(len(names), 1), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, max(len(names), 1), squeeze=False)[0], names, strict=False):
        for who in dict.fromkeys(row["who"] for row in rows if row["case"] == name):
            mine = [row for row in rows if row["case"] == name and row["who"] == who and row["seed"] == 0]
            mark = "o-" if who.startswith("tnkit") else "x--"
            axes.loglog([row["n_params"] for row in mine], [row["rel_error"] for row in mine], mark, label=who)
        axes.set_title(name, fontsize=8)
        axes.set_xlabel("numbers")
        axes.set_ylabel("relative error")
        axes.legend(fontsize=6)
    return saved(figure, path)


def speed(rows: list[Row], path: Path) -> Path:
    """Milliseconds of tnkit, of the fastest rivals and of the floor, by case."""
    cases = list(dict.fromkeys(row.case for row in rows))[::-1]
    figure = Figure(figsize=(9, 1.2 + 0.42 * len(cases)), layout="constrained")
    axes = figure.subplots()
    for k, (kind, colour) in enumerate(KINDS.items()):
        found = [best([row for row in rows if row.case == case], kind) for case in cases]
        places = [j + 0.27 * (1 - k) for j, row in enumerate(found) if row]
        times = [1e3 * (row.median_s or 0.0) for row in found if row]
        label = "tnkit" if kind == "tnkit" else f"fastest {kind} rival"
        axes.barh(places, times, height=0.25, color=colour, label=label)
    floors = [1e3 * next(row.floor_s for row in rows if row.case == case) for case in cases]
    marks = axes.scatter(floors, range(len(cases)), marker="|", s=220, color="black", zorder=3)
    marks.set_label("floor: two readings and the counted flops")
    axes.set_yticks(range(len(cases)), cases, fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds (log)")
    axes.legend(fontsize=7, loc="lower right")
    return saved(figure, path)


def scaling(found: dict[str, list[dict[str, float]]], path: Path) -> Path:
    """Measured and counted seconds as one thing grows."""
    names = list(dict.fromkeys(str(point["series"]) for point in found["points"]))
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        mine = [point for point in found["points"] if point["series"] == name]
        values = [point["value"] for point in mine]
        axes.loglog(values, [1e3 * p["measured_s"] for p in mine], "o-", color=KINDS["tnkit"], label="tnkit")
        axes.loglog(values, [1e3 * p["theory_s"] for p in mine], "k--", label="floor")
        axes.set_xlabel(name)
        axes.set_ylabel("milliseconds")
        axes.legend(fontsize=7)
    return saved(figure, path)


def saved(figure: "Figure", path: Path) -> Path:
    """As SVG without a date, so that equal figures give equal files."""
    figure.savefig(path, metadata={"Date": None})
    return path


if __name__ == "__main__":
    at = [Path(folder) for folder in sys.argv[1:]]
    for chart in draw(at[0] if at else Path("out"), at[1] if len(at) > 1 else Path("out")):
        sys.stdout.write(f"{chart}\n")
