"""Completion of photographs, spectra, medical panels and traffic: tnkit beside other libraries, and published figures.

Run it with `python -m benchmarks.bench_completion [--quick] [--case TEXT] [--who TEXT] [--seeds N] [--resume]
[--note TEXT] [--json PATH]`. The file is written row by row: rows that are there already stay, but for those that are
measured again, and with --resume those are not measured again. Every row tells RSE, RMSE and MAE on what was hidden,
PSNR and SSIM of pictures, seconds by the clock and by the processor. Panels of one's own are read from the folder that
TNKIT_PANELS names.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import inf, log10
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.completion_cases import Work, works
from benchmarks.completion_rivals import Array
from benchmarks.harness import cpu_name, write_json

#: Figures that were published, as (case, who, what).
PUBLISHED = (
    ("lena, 256 × 256 × 3, pixels .1", "T-CTV", "26.23 dB, 18 s", "Wang et al. 2023, doi:10.1109/TPAMI.2023.3259640"),
    ("lena, 256 × 256 × 3, pixels .1", "TNN-TV / SNN-TV / BCPF / SNN", "23.75 / 22.76 / 20.36 / 19.81 dB", "the same"),
    ("Guangzhou traffic, 30 % hidden", "LSTC", "RMSE 2.62, 6 s", "Chen et al. 2021, doi:10.1016/j.trc.2021.103226"),
    (
        "Guangzhou traffic, 30 % hidden",
        "LRTC-TNN",
        "RMSE 3.00, 115 s",
        "Chen et al. 2020, doi:10.1016/j.trc.2020.102673",
    ),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One contender on one picture."""

    case: str
    picture: str
    seed: int
    who: str
    rse: float = inf
    rmse: float = inf
    mae: float = inf
    psnr: float | None = None
    ssim: float | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    how: str = ""
    failed: str | None = None


def run(work: Work, seed: int, who: str) -> Row:
    """One contender; its failure is a result."""
    x = work.x()
    known = ~np.isnan(x)
    mask = work.mask(x.shape, seed) & known
    hidden, x = known & ~mask, np.where(known, x, 0.0)
    fill = work.who[who]
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            filled = fill(np.where(mask, x, 0.0), mask)
    except Exception as error:  # another library's failure is a result, and is shown as one
        return Row(work.case, work.picture, seed, who, failed=f"{type(error).__name__}: {error}"[:80])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    off = (filled - x)[hidden]
    rse, rmse = float(np.linalg.norm(off) / np.linalg.norm(x[hidden])), float(np.sqrt(np.mean(off**2)))
    mae = float(np.abs(off).mean())
    psnr = ssim = None
    if work.is_picture:
        psnr, ssim = quality(np.clip(np.where(mask, x, filled), 0, 1), x)
    return Row(work.case, work.picture, seed, who, rse, rmse, mae, psnr, ssim, wall, cpu, getattr(fill, "how", ""))


def quality(filled: Array, x: Array) -> tuple[float, float]:
    """PSNR over all entries (dB) and mean SSIM."""
    from skimage.metrics import structural_similarity

    psnr = 10 * log10(1 / max(1e-12, float(np.mean((filled - x) ** 2))))
    return psnr, float(structural_similarity(x, filled, channel_axis=-1, data_range=1.0))


def show(console: Console, rows: list[Row]) -> None:
    """A table for each case, over pictures and seeds."""
    for case in dict.fromkeys(r.case for r in rows):
        table = Table(
            "who", "PSNR", "SSIM", "RSE", "RMSE", "MAE", "s", "cpu s, largest", title=case, title_justify="left"
        )
        mine = [r for r in rows if r.case == case]
        for who in dict.fromkeys(r.who for r in mine):
            group = [r for r in mine if r.who == who]
            good = [r for r in group if r.failed is None]
            if not good:
                table.add_row(who, "failed", "", str(group[0].failed))
                continue
            pictures = [r for r in good if r.psnr is not None and r.ssim is not None]
            psnr = f"{mean(r.psnr or 0.0 for r in pictures):.2f}" if pictures else ""
            ssim = f"{mean(r.ssim or 0.0 for r in pictures):.3f}" if pictures else ""
            methods = ", ".join(sorted({r.how for r in good if r.how and who == "auto"}))
            table.add_row(
                f"{who} ({methods})" if methods else who,
                psnr,
                ssim,
                f"{mean(r.rse for r in good):.4f}",
                f"{mean(r.rmse for r in good):.4g}",
                f"{mean(r.mae for r in good):.4g}",
                f"{mean(r.wall_s for r in good):.1f}",
                f"{max(r.cpu_s for r in good):.1f}",
            )
        console.print(table)
    table = Table("case", "who", "published", "where")
    for line in PUBLISHED:
        table.add_row(*line)
    console.print(table)


def measured(work: Work, asked: argparse.Namespace, console: Console) -> Iterator[Row]:
    """The rows of one array; the file is written after each, so that nothing is lost."""
    there = {key(row) for row in known(asked.json)} if asked.resume else set()
    for seed in range(1 if asked.quick else asked.seeds):
        for who in work.who:
            if asked.who not in who or (work.case, work.picture, seed, who) in there:
                continue
            r = run(work, seed, who)
            psnr = "" if r.psnr is None else f"{r.psnr:.2f} dB, "
            told = r.failed or f"{psnr}RSE {r.rse:.4f}, {r.wall_s:.1f} s ({r.cpu_s:.1f} s of processor)"
            console.print(f"… {r.case}, {r.picture}, seed {seed}: {r.who} {told}")
            write_json(asked.json, {"machine": machine(asked), "published": PUBLISHED, "rows": merged(asked.json, [r])})
            yield r


def known(path: Path) -> list[dict[str, object]]:
    """The rows of a file, none where there is no file."""
    rows: list[dict[str, object]] = json.loads(path.read_text())["rows"] if path.exists() else []
    return rows


def key(row: dict[str, object]) -> tuple[object, ...]:
    """What a row is of."""
    return row["case"], row["picture"], row["seed"], row["who"]


def merged(path: Path, rows: list[Row]) -> list[dict[str, object]]:
    """The rows of the file that were not measured now, and those that were."""
    now = [{k: v for k, v in asdict(r).items() if v != inf} for r in rows]
    again = {key(row) for row in now}
    return [*(row for row in known(path) if key(row) not in again), *now]


def machine(asked: argparse.Namespace) -> dict[str, object]:
    """Where it was measured, and what else is to be known of it."""
    told = {"note": asked.note} if asked.note else {}
    return {"cpu": cpu_name(), "threads": torch.get_num_threads(), "torch": str(torch.__version__), **told}


def main() -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_completion", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small pictures, one seed, to see that everything runs")
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    parser.add_argument("--who", default="", help="only contenders whose name holds this")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="leave out what is in the file already")
    parser.add_argument("--note", default="", help="what is to be known of the machine, kept in the file")
    parser.add_argument("--json", type=Path, default=Path("out/completion.json"))
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    rows = [row for work in works(asked.quick) if asked.case in work.case for row in measured(work, asked, console)]
    show(console, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
