"""Completion of photographs, a spectral cube and panels: tnkit beside other libraries, and published figures.

Run it with `python -m benchmarks.bench_completion [--quick] [--case TEXT] [--who TEXT] [--seeds N] [--json PATH]`.
Every row tells RSE and RMSE on what was hidden, PSNR and SSIM of pictures, seconds by the clock and by the processor.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import util
from math import inf, log10
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import tnkit as tk
from benchmarks import completion_data as data
from benchmarks.harness import Case, cpu_name
from tnkit.completion import HaLRTC, TruncatedNuclear, TubalNuclear

Array = np.ndarray
Filler = Callable[[Array, Array], Array]  # (values with 0 where hidden, mask) -> the whole array

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
    psnr: float | None = None
    ssim: float | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    how: str = ""
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """One array, what is observed of it, and who fills it."""

    case: str
    picture: str
    x: Callable[[], Array]
    mask: Callable[[tuple[int, ...], int], Array]
    who: dict[str, Filler]
    is_picture: bool


def ours(**options: object) -> Filler:
    """`tk.complete` with options."""

    def fill(x: Array, mask: Array) -> Array:
        done = tk.complete(x, mask=mask, **options)  # type: ignore[arg-type]
        fill.how = done.method  # type: ignore[attr-defined]
        filled: Array = done.filled
        return filled

    return fill


def biharmonic(x: Array, mask: Array) -> Array:
    """Scikit-image's inpainting; each channel by itself where channels are observed apart."""
    from skimage.restoration import inpaint_biharmonic

    planes = [inpaint_biharmonic(x[..., c], ~mask[..., c]) for c in range(x.shape[2])]
    return np.stack(planes, -1)


def masked_cp(rank: int) -> Filler:
    """tensorly's CP with a mask."""

    def fill(x: Array, mask: Array) -> Array:
        from tensorly import cp_to_tensor
        from tensorly.decomposition import parafac

        start = np.where(mask, x, x[mask].mean())
        cp = parafac(start, rank, mask=mask, init="random", random_state=0, n_iter_max=100, tol=1e-6)
        dense: Array = np.asarray(cp_to_tensor(cp))
        return dense

    return fill


def neighbours(x: Array, mask: Array) -> Array:
    """Scikit-learn's nearest neighbours, on rows × the rest."""
    from sklearn.impute import KNNImputer

    return imputed(KNNImputer(keep_empty_features=True), x, mask)


def iterative(x: Array, mask: Array) -> Array:
    """Scikit-learn's chained regressions, on rows × the rest."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    imputer = IterativeImputer(max_iter=3, n_nearest_features=20, keep_empty_features=True, random_state=0)
    return imputed(imputer, x, mask)


def imputed(imputer: object, x: Array, mask: Array) -> Array:
    """Rows are samples, everything else features."""
    flat = np.where(mask, x, np.nan).reshape(x.shape[0], -1)
    filled: Array = imputer.fit_transform(flat).reshape(x.shape)  # type: ignore[attr-defined]
    return filled


def installed(**fillers: tuple[str, Filler]) -> dict[str, Filler]:
    """Those whose package is there."""
    return {who.replace("_", " "): fill for who, (package, fill) in fillers.items() if util.find_spec(package)}


def works(quick: bool) -> Iterator[Work]:
    """All that is measured."""
    size = 64 if quick else 256
    convex: dict[str, Filler] = {"auto": ours(), "T-CTV": ours(method="tctv")}
    rivals = installed(tensorly_masked_CP_16=("tensorly", masked_cp(16)), scikit_learn_KNN=("sklearn", neighbours))
    smooth = installed(scikit_image_biharmonic=("skimage", biharmonic))
    photographs = data.photographs(size) if util.find_spec("skimage") and util.find_spec("sklearn") else {}
    for share in (0.1, 0.3):
        for name, x in photographs.items():
            yield Work(
                f"photographs, pixels observed {share}",
                name,
                lambda x=x: x,
                lambda shape, seed, share=share: data.pixels(shape, share, seed),
                convex | {"HaLRTC": ours(method=HaLRTC(holdout=0.0))} | rivals | smooth,
                True,
            )
    holes: dict[str, Callable[[tuple[int, ...], int], Array]] = {
        "rows, half gone": lambda shape, seed: data.lines(shape, 0.5, seed, 0),
        "columns, half gone": lambda shape, seed: data.lines(shape, 0.5, seed, 1),
        "blocks, 30 of 16 × 16": lambda shape, seed: data.blocks(shape, 30, shape[0] // 16, seed),
    }
    for hole, mask in holes.items():
        for name, x in photographs.items():
            yield Work(f"photographs, {hole}", name, lambda x=x: x, mask, convex | smooth, True)
    if photographs:
        for share in (0.1, 0.2, 0.3):
            for kind, pattern in (("pixels", data.pixels), ("entries", data.entries)):
                yield Work(
                    f"astronaut[::2, ::2], {kind} observed {share}",
                    "astronaut",
                    data.small_astronaut,
                    lambda shape, seed, share=share, pattern=pattern: pattern(shape, share, seed),
                    convex | {"HaLRTC": ours(method=HaLRTC(holdout=0.0))},
                    True,
                )
    if util.find_spec("tensorly") and not quick:
        for share in (0.1, 0.02):
            yield Work(
                f"Indian Pines, entries observed {share}",
                "cube",
                data.indian_pines,
                lambda shape, seed, share=share: data.entries(shape, share, seed),
                {"auto": ours(), "tensorly masked CP 16": masked_cp(16)},
                False,
            )
    panels = {
        "auto": ours(),
        "HaLRTC": ours(method=HaLRTC(holdout=0.0)),
        "truncated, θ held out": ours(method=TruncatedNuclear()),
        "tubal, transform held out": ours(method=TubalNuclear()),
        "ALS": ours(method="als", time_limit_s=20),
    } | installed(scikit_learn_iterative=("sklearn", iterative), scikit_learn_KNN=("sklearn", neighbours))
    patterns: dict[str, Callable[[tuple[int, ...], int], Array]] = {
        f"{kind} observed {share}": (lambda shape, seed, pattern=pattern, share=share: pattern(shape, share, seed))
        for kind, pattern in (("entries", data.entries), ("days", data.fibres), ("runs of days", data.outages))
        for share in (0.7, 0.4)
    }
    for kind, mask in patterns.items():
        yield Work(f"traffic 60 × 28 × 24, {kind}", "panel", data.traffic, mask, panels, False)


def run(work: Work, seed: int, who: str) -> Row:
    """One contender; its failure is a result."""
    x = work.x()
    mask = work.mask(x.shape, seed)
    fill = work.who[who]
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            filled = fill(np.where(mask, x, 0.0), mask)
    except Exception as error:  # another library's failure is a result, and is shown as one
        return Row(work.case, work.picture, seed, who, failed=f"{type(error).__name__}: {error}"[:80])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    off = (np.where(mask, x, filled) - x)[~mask]
    rse, rmse = float(np.linalg.norm(off) / np.linalg.norm(x[~mask])), float(np.sqrt(np.mean(off**2)))
    psnr = ssim = None
    if work.is_picture:
        psnr, ssim = quality(np.clip(np.where(mask, x, filled), 0, 1), x)
    return Row(work.case, work.picture, seed, who, rse, rmse, psnr, ssim, wall, cpu, getattr(fill, "how", ""))


def quality(filled: Array, x: Array) -> tuple[float, float]:
    """PSNR over all entries (dB) and mean SSIM."""
    from skimage.metrics import structural_similarity

    psnr = 10 * log10(1 / max(1e-12, float(np.mean((filled - x) ** 2))))
    return psnr, float(structural_similarity(x, filled, channel_axis=-1, data_range=1.0))


def cases(*, quick: bool) -> Iterator[Case]:
    """None: this benchmark measures quality, and is run by itself."""
    del quick
    yield from ()


def show(console: Console, rows: list[Row]) -> None:
    """A table for each case, over pictures and seeds."""
    for case in dict.fromkeys(r.case for r in rows):
        table = Table("who", "PSNR", "SSIM", "RSE", "RMSE", "s", "cpu s, largest", title=case, title_justify="left")
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
                f"{mean(r.wall_s for r in good):.1f}",
                f"{max(r.cpu_s for r in good):.1f}",
            )
        console.print(table)
    table = Table("case", "who", "published", "where")
    for line in PUBLISHED:
        table.add_row(*line)
    console.print(table)


def main() -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_completion", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small pictures, one seed, to see that everything runs")
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    parser.add_argument("--who", default="", help="only contenders whose name holds this")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("out/completion.json"))
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    rows: list[Row] = []
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    for work in works(asked.quick):
        if asked.case not in work.case:
            continue
        for seed in range(1 if asked.quick else asked.seeds):
            for who in work.who:
                if asked.who in who:
                    rows.append(run(work, seed, who))
                    r = rows[-1]
                    psnr = "" if r.psnr is None else f"{r.psnr:.2f} dB, "
                    console.print(f"… {r.case}, {r.picture}: {r.who} {psnr}RSE {r.rse:.4f}, {r.cpu_s:.1f} s")
        part = asked.json.with_suffix(".part")
        part.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
        part.replace(asked.json)
    show(console, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
