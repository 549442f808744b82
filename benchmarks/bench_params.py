"""Parameters at equal eps: `python -m benchmarks.bench_params [--case TEXT] [--json PATH]`.

Six tensors, real and synthetic, each to 0.1 and to 0.03. Every error is computed from the dense result; a size counts
only where its error keeps eps. Ratios are to torchTT's TT at the same eps, for Tucker to pyttb's HOSVD.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from math import exp, fsum, log, prod, sqrt

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import tnkit as tk
from benchmarks.harness import Answer, Contender, arguments, relative_error, screen, write_json

HAS = {name: find_spec(name) is not None for name in ("tensorly", "torchtt", "tntorch", "pyttb", "skimage")}
if HAS["tensorly"]:
    from tensorly.datasets import load_covid19_serology, load_indian_pines, load_kinetic
if HAS["skimage"]:
    from skimage import data as photos
if HAS["torchtt"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says on import that its compiled part is missing
        import torchtt
if HAS["tntorch"]:
    import tntorch
if HAS["pyttb"]:
    import pyttb

EPS = (0.1, 0.03)
RIVAL = {"TT": "torchTT", "Tucker": "pyttb HOSVD"}


def tensors() -> dict[str, Callable[[], Tensor]]:
    """The data, by name."""
    found: dict[str, Callable[[], Tensor]] = {}
    if HAS["tensorly"]:
        found["Indian Pines 145×145×200"] = lambda: as_double(load_indian_pines()["tensor"])
        found["kinetic fluorescence 64×12×10×60"] = lambda: as_double(load_kinetic()["tensor"])
        found["COVID-19 serology 438×6×11"] = lambda: as_double(load_covid19_serology()["tensor"])
    if HAS["skimage"]:
        found["photograph 512×512×3"] = lambda: as_double(photos.astronaut())
    found["smooth function 32×24×20×16"] = smooth
    found["decaying with noise 20×20×20×20"] = decaying
    return found


def as_double(values: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float64)


def smooth() -> Tensor:
    """A travelling wave packet over a grid of (x, time, speed, width)."""
    x, t, c, w = np.ogrid[-1:1:32j, 0:1:24j, 0.2:1:20j, 0.1:0.5:16j]
    return as_double(np.exp(-(((x - c * t) / w) ** 2)) * np.cos(6 * (x + t)))


def decaying() -> Tensor:
    """Singular values that fall in every mode, in random bases, and white noise of 2 % beneath."""
    gen = torch.Generator().manual_seed(0)
    x = torch.randn((20,) * 4, generator=gen, dtype=torch.float64)
    for k in range(4):
        q = torch.linalg.qr(torch.randn(20, 20, generator=gen, dtype=torch.float64)).Q
        fall = torch.arange(1, 21, dtype=torch.float64) ** -1.0
        x = torch.movedim(torch.tensordot(x, q * fall, dims=([k], [1])), -1, k).contiguous()
    noise = torch.randn(x.shape, generator=gen, dtype=torch.float64)
    return x / x.norm() + 0.02 * noise / noise.norm()


def trains(eps: float) -> dict[str, Contender]:
    """Who makes trains."""
    who: dict[str, Contender] = {}
    if HAS["torchtt"]:
        who["torchTT"] = lambda x: of_cores(torchtt.TT(x, eps=eps).cores)
    if HAS["tntorch"]:
        who["tntorch"] = lambda x: of_cores(tntorch.round_tt(tntorch.Tensor(x), eps=eps).cores)
    who["even split"] = lambda x: even_split(x, eps)
    who["tnkit"] = lambda x: ours(tk.decompose(x, "tt", eps=eps))
    who["tnkit permute"] = lambda x: ours(tk.decompose(x, "tt", eps=eps, permute=True))
    return who


def tuckers(eps: float) -> dict[str, Contender]:
    """Who makes Tucker tensors."""
    who: dict[str, Contender] = {}
    if HAS["pyttb"]:
        who["pyttb HOSVD"] = lambda x: hosvd(x, eps)
    who["tnkit"] = lambda x: ours(tk.decompose(x, "tucker", eps=eps))
    who["tnkit permute"] = lambda x: ours(tk.decompose(x, "tucker", eps=eps, permute=True))
    return who


def ours(fit: tk.FitReport) -> Answer:
    return Answer(fit.tensor.to_dense, fit.n_params)


def of_cores(cores: list[Tensor]) -> Answer:
    def dense() -> Tensor:
        x = cores[0].reshape(-1, cores[0].shape[-1])
        for core in cores[1:]:
            x = (x @ core.reshape(core.shape[0], -1)).reshape(-1, core.shape[-1])
        return x.reshape([core.shape[1] for core in cores])

    return Answer(dense, sum(core.numel() for core in cores))


def even_split(x: Tensor, eps: float) -> Answer:
    """TT-SVD as it is in the books: every cut may lose eps/√(d−1)."""
    share, rest, cores = eps * float(x.norm()) / sqrt(x.ndim - 1), x.reshape(1, -1), []
    for n in x.shape[:-1]:
        left = rest.shape[0]
        u, s, v = torch.linalg.svd(rest.reshape(left * n, -1), full_matrices=False)
        tail = s.square().flip(0).cumsum(0).flip(0)
        rank = max(1, int((tail > share**2).sum()))
        cores.append(u[:, :rank].reshape(left, n, rank))
        rest = s[:rank, None] * v[:rank]
    cores.append(rest.reshape(-1, x.shape[-1], 1))
    return of_cores(cores)


def hosvd(x: Tensor, eps: float) -> Answer:
    t = pyttb.hosvd(pyttb.tensor(x.numpy()), tol=eps, verbosity=0)
    size = int(prod(t.core.shape)) + sum(f.size for f in t.factor_matrices)
    return Answer(lambda: torch.as_tensor(np.ascontiguousarray(t.full().data)), size)


@dataclass(frozen=True, slots=True)
class Size:
    """One contender on one case; the ratio is to the rival, None where eps is missed."""

    tensor: str
    eps: float
    format: str
    who: str
    n_params: int
    rel_error: float
    seconds: float
    ratio: float | None = None
    failed: str | None = None


def measure_sizes(name: str, x: Tensor, eps: float, form: str) -> list[Size]:
    """All contenders on one tensor."""
    who = trains(eps) if form == "TT" else tuckers(eps)
    rows: list[Size] = []
    for label, contender in who.items():
        begun = time.perf_counter()
        try:
            answer = contender(x)
        except Exception as error:  # another library's failure is a result, and is shown as one
            rows.append(Size(name, eps, form, label, 0, float("nan"), 0.0, failed=f"{type(error).__name__}: {error}"))
            continue
        took = time.perf_counter() - begun
        rows.append(Size(name, eps, form, label, answer.n_params, relative_error(x, answer.dense()), took))
    base = next((r.n_params for r in rows if r.who == RIVAL[form] and not r.failed), None)
    for k, row in enumerate(rows):
        if base and not row.failed and row.rel_error <= eps * (1 + 1e-9):
            rows[k] = Size(**{**asdict(row), "ratio": row.n_params / base})
    return rows


def means(rows: list[Size]) -> dict[str, dict[str, float]]:
    """Geometric and arithmetic mean of the ratios, by format and contender, where a contender always keeps eps."""
    found: dict[str, dict[str, float]] = {}
    for key in dict.fromkeys((r.format, r.who) for r in rows):
        ratios = [r.ratio for r in rows if (r.format, r.who) == key]
        known = [r for r in ratios if r is not None]
        if known:
            found[f"{key[0]}, {key[1]}"] = {
                "geometric": exp(fsum(map(log, known)) / len(known)),
                "arithmetic": fsum(known) / len(known),
                "cases": len(known),
                "eps_missed": len(ratios) - len(known),
            }
    return found


def main() -> int:
    """Measure, print, write JSON."""
    asked, console = arguments("bench_params", __doc__), screen()
    rows: list[Size] = []
    chosen = list(tensors().items())
    for name, data in chosen[-1:] if asked.quick else chosen:
        if asked.case not in name:
            continue
        x = data()
        for eps in EPS:
            for form in RIVAL:
                rows += measure_sizes(name, x, eps, form)
                show(console, name, eps, form, rows)
    table = Table(
        "contender", "geometric mean", "arithmetic mean", "cases", title="parameters, as a share of the rival's"
    )
    for key, mean in means(rows).items():
        table.add_row(key, f"{mean['geometric']:.3f}", f"{mean['arithmetic']:.3f}", f"{mean['cases']:.0f}")
    console.print(table)
    write_json(asked.json, {"rows": [asdict(r) for r in rows], "means": means(rows)})
    console.print(f"written to {asked.json}")
    return 0


def show(console: Console, name: str, eps: float, form: str, rows: list[Size]) -> None:
    """The table of one case."""
    table = Table("who", title=f"{form}, eps {eps}: {name}", title_justify="left")
    for heading in ("parameters", "ratio", "true error", "s"):
        table.add_column(heading, justify="right")
    for r in rows:
        if (r.tensor, r.eps, r.format) == (name, eps, form):
            ratio = "" if r.ratio is None else f"{r.ratio:.3f}"
            table.add_row(r.who, f"{r.n_params:,}", r.failed or ratio, f"{r.rel_error:.5f}", f"{r.seconds:.2f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
