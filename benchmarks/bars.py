"""What was asked for, and what was seen: `python -m benchmarks.bars [FOLDER]` reads the figures of a finished run."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Row, best, read_rows, screen, write_json


@dataclass(frozen=True, slots=True)
class Bar:
    """One line: `met` is None where the figures for it are not there."""

    what: str
    asked: str
    seen: str
    met: bool | None


def report(folder: Path, console: Console) -> list[Bar]:
    """Print the bars of the figures in a folder and write them beside."""
    bars = [bar for part in PARTS for bar in part(folder)]
    table = Table("what", "asked", "seen", "met")
    for bar in bars:
        table.add_row(bar.what, bar.asked, bar.seen, "–" if bar.met is None else "yes" if bar.met else "NO")
    console.print(table)
    write_json(folder / "bars.json", [asdict(bar) for bar in bars])
    return bars


def load(folder: Path, name: str) -> Any:
    """The JSON of a module, None where it has not run."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def by_case(folder: Path) -> dict[str, list[Row]]:
    """The rows of the dense cases."""
    path, found = folder / "bench_decompose.json", dict[str, list[Row]]()
    for row in read_rows(path) if path.exists() else []:
        found.setdefault(row.case, []).append(row)
    return found


def faster(rows: list[Row], kind: str) -> float | None:
    """How many times longer the fastest of a kind takes than tnkit."""
    ours, theirs = best(rows, "tnkit"), best(rows, kind)
    if ours is None or theirs is None or not ours.median_s or not theirs.median_s:
        return None
    return theirs.median_s / ours.median_s


def at_least(what: str, value: float | None, bound: float, unit: str = "×") -> Bar:
    """A bar from below."""
    seen = "not measured" if value is None else f"{value:,.1f} {unit}"
    return Bar(what, f"≥ {bound:g} {unit}", seen, None if value is None else value >= bound)


def at_most(what: str, value: float | None, bound: float, unit: str = "×") -> Bar:
    """A bar from above."""
    seen = "not measured" if value is None else f"{value:,.3g} {unit}"
    return Bar(what, f"≤ {bound:g} {unit}", seen, None if value is None else value <= bound)


#: start of the case's name, kind of rival, bound
SPEED = (
    ("TT 40×40×40×40×8, rank 20, noise 0.001, float64", "exact", 20.0),
    ("TT 40×40×40×40×8, rank 20, noise 0.001, float64", "randomised", 10.0),
    ("TT 40×40×40×40×8, rank 20, noise 0.001, float32", "exact", 12.0),
    ("TT 40×40×40×40×8, rank 20, noise 0.001, float32", "randomised", 5.0),
    ("TT 16×16×16×16×16×16, rank 10", "exact", 30.0),
    ("TT 2^24, rank 8", "exact", 30.0),
    ("Tucker 256×256×256, rank 20, noise 0.01, float64", "exact", 10.0),
    ("TT 40×40×40×40×8, eps 1e-12", "exact", 2.0),
    ("Tucker 256×256×256, eps 1e-12", "exact", 2.0),
)
FLOOR = ("TT 16×16×16×16×16×16, rank 10", "TT 2^24, rank 8")


def dense(folder: Path) -> Iterator[Bar]:
    """Speed, distance from the floor, and error of the dense cases."""
    cases = by_case(folder)

    def pick(start: str) -> list[Row]:
        return next((rows for name, rows in cases.items() if name.startswith(start)), [])

    for start, kind, bound in SPEED:
        yield at_least(f"{start}: times the fastest {kind} rival", faster(pick(start), kind), bound)
    for start in FLOOR:
        ours = best(pick(start), "tnkit")
        ratio = None if ours is None or ours.median_s is None else ours.median_s / ours.floor_s
        yield at_most(f"{start}: times two readings and the counted flops", ratio, 8.0)
    for start in dict.fromkeys(start for start, _, _ in SPEED if "eps" not in start):
        rows = pick(start)
        exact = [r.rel_error for r in rows if r.kind == "exact" and r.rel_error is not None]
        ours = best(rows, "tnkit")
        worse = None if ours is None or ours.rel_error is None or not exact else ours.rel_error / min(exact)
        yield at_most(f"{start}: error beside the best exact one", worse, 1.01)
    for name, rows in cases.items():
        if "eps 1e-12" in name:
            ours = best(rows, "tnkit")
            yield at_most(f"{name}: true error", None if ours is None else ours.rel_error, 1e-12, "")


def memory(folder: Path) -> Iterator[Bar]:
    """The most that a decomposition at ranks held beside its input, from 10 MB on."""
    rows = [
        row
        for rows in by_case(folder).values()
        for row in rows
        if row.kind == "tnkit" and row.n_bytes >= 10_000_000 and row.peak_bytes is not None
    ]
    for format in ("TT", "Tucker"):
        mine = [row for row in rows if row.case.startswith(format)]
        worst = max(mine, key=lambda row: (row.peak_bytes or 0) / row.n_bytes, default=None)
        what = f"{format}: peak memory beside the input" + (f" (worst: {worst.case})" if worst else "")
        yield at_most(what, None if worst is None else (worst.peak_bytes or 0) / worst.n_bytes, 1.5)


def scaling(folder: Path) -> Iterator[Bar]:
    """Measured slopes against those of the floor; that in the order, which is 0, within a tenth."""
    found = load(folder, "bench_scaling")
    for name, line in (found["slopes"] if found else {}).items():
        off = abs(line["measured"] - line["floor"])
        seen = f"{line['measured']:.3f} (floor {line['floor']:.3f}, all cuts counted {line['counted']:.3f})"
        asked = "within .1" if name == "order" else "within 10 %"
        yield Bar(f"slope of time in {name}", asked, seen, off <= 0.1 * (1.0 if name == "order" else line["floor"]))


def als(folder: Path) -> Iterator[Bar]:
    """CP and ring on Indian Pines: time a sweep, and error."""
    found = load(folder, "bench_als")
    rows = found["rows"] if found else []
    for work in dict.fromkeys(r["work"] for r in rows if "Indian Pines" in r["work"]):
        for sweeps in dict.fromkeys(r["sweeps"] for r in rows if r["work"] == work):
            mine = [r for r in rows if r["work"] == work and r["sweeps"] == sweeps and r.get("sweep_ms")]
            theirs = [r for r in mine if r["who"] == "tensorly"]
            for ours in (r for r in mine if r["who"] in ("tnkit", "tnkit, one start")):
                if theirs:
                    name = f"{work}, {sweeps} sweeps, {ours['who']}"
                    yield at_least(f"{name}: times tensorly a sweep", theirs[0]["sweep_ms"] / ours["sweep_ms"], 15.0)
                    yield at_most(f"{name}: error beside tensorly's", ours["rel_error"] / theirs[0]["rel_error"], 1.0)


def params(folder: Path) -> Iterator[Bar]:
    """Numbers at equal eps, arithmetic means over the tensors."""
    found = load(folder, "bench_params")
    means = found["means"] if found else {}
    for key, bound in (("TT, tnkit", 0.78), ("TT, tnkit permute", 0.60), ("Tucker, tnkit", 0.85)):
        mean = means.get(key)
        yield at_most(f"numbers at equal eps, {key}", mean and mean["arithmetic"], bound, "of the rival's")


def cross(folder: Path) -> Iterator[Bar]:
    """Evaluations beside torchTT's, where both reach the error."""
    rows = load(folder, "bench_cross") or []
    for case in dict.fromkeys(row["case"] for row in rows):
        kept = [r for r in rows if r["case"] == case and not r["failed"] and r["true_error"] <= r["asked_eps"]]
        ours = [r["distinct"] for r in kept if r["who"].startswith("tnkit")]
        theirs = [r["distinct"] for r in kept if r["who"].startswith("torchTT")]
        ratio = min(ours) / min(theirs) if ours and theirs else None
        yield at_most(f"cross, {case}: evaluations beside torchTT's", ratio, 0.5)


def out_of_core(folder: Path) -> Iterator[Bar]:
    """eps kept, and the peak under the limit and the result."""
    for row in load(folder, "bench_outofcore") or []:
        name = f"{row['format']} of a file, {row['asked']}"
        if "failed" in row:
            yield Bar(name, "runs", str(row["failed"])[:60], False)
            continue
        room = row["limit_bytes"] + row["result"]
        eps = row["asked"].get("eps")
        fits = row["peak"] <= room and (eps is None or row["true"] <= eps)
        seen = f"{row['peak'] / 1e6:,.0f} MB, error {row['true']:.3e}"
        yield Bar(name, f"≤ {room / 1e6:,.0f} MB, eps kept", seen, fits)


PARTS: tuple[Callable[[Path], Iterator[Bar]], ...] = (dense, memory, scaling, als, params, cross, out_of_core)

if __name__ == "__main__":
    report(Path(sys.argv[1] if len(sys.argv) > 1 else "out"), screen())
