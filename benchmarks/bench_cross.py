"""Entries that a train of a function needs: `python -m benchmarks.bench_cross [--case TEXT] [--who TEXT]`.

Every contender gets the same function, which counts the entries that it is asked for. Each is run with the eps that is
asked for and, where its true error misses that, with ever smaller ones; what is shown is the first run that keeps it,
or the last. The true error is exact where the function is a sum of products of functions of one index, whose difference
to a train has a norm by orthogonalisation, or where all entries can be made; elsewhere it is that of 400,000 entries.
"""

from __future__ import annotations

import itertools
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from math import prod
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import tnkit as tk
from benchmarks.harness import arguments, screen, write_json

HAS = {name: find_spec(name) is not None for name in ("torchtt", "teneva")}
if HAS["torchtt"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says on import that its compiled part is missing
        import torchtt
if HAS["teneva"]:
    import teneva

Array: TypeAlias = "NDArray[Any]"
Cores: TypeAlias = "Sequence[Array]"

#: Contenders that miss the error are run again with eps divided by these.
TIGHTER = (1, 3, 10, 100)


@dataclass(frozen=True, slots=True)
class Function:
    """A function of indices.

    Attributes:
        name: of the case.
        shape: of the domain.
        values: (N, d) indices to N values.
        eps: what is asked.
        factors: for each mode (n, R), where the function is the sum over R of the products of their columns.
    """

    name: str
    shape: tuple[int, ...]
    values: Callable[[Array], Array]
    eps: float
    factors: tuple[Array, ...] | None = None


class Counted:
    """The function, and what it was asked for."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.asked = 0
        self._keys: list[Array] = []

    def __call__(self, indices: Array) -> Array:
        """Values; indices as any array of whole numbers."""
        table = np.asarray(indices).astype(np.int64)
        self.asked += len(table)
        self._keys.append(np.ravel_multi_index(tuple(table.T), self.function.shape))
        return self.function.values(table)

    @property
    def distinct(self) -> int:
        """Entries, each counted once."""
        return len(np.unique(np.concatenate(self._keys)))


@dataclass(frozen=True, slots=True)
class Row:
    """One contender on one case; `eps` is what it was given."""

    case: str
    who: str
    asked_eps: float
    eps: float
    distinct: int
    asked: int
    true_error: float
    exact: bool
    seconds: float
    n_params: int
    failed: str | None = None


# --- functions


def hilbert(n: int, d: int, eps: float) -> Function:
    """1/(1 + Σ i): its factors come from 1/x = ∫ exp(u − x eᵘ) du by the trapezoidal rule, to 1e-14."""
    u = np.arange(-40.0, 4.5, 0.28)
    weight, rate = 0.28 * np.exp(u), np.exp(u)
    part = np.exp(-np.outer(np.arange(n) + 1.0 / d, rate))
    return Function(
        f"1/(i_1+…+i_{d}+1), {n}^{d}",
        (n,) * d,
        lambda i: 1.0 / (1.0 + i.sum(1)),
        eps,
        (part * weight, *[part] * (d - 1)),
    )


def mixture(count: int, width: tuple[float, float], n: int, d: int, eps: float) -> Function:
    """Gaussian peaks in the unit cube, of different heights and widths."""
    rng = np.random.default_rng(0)
    centres, widths = rng.uniform(0.2, 0.8, (count, d)), rng.uniform(*width, (count, d))
    heights = rng.uniform(0.5, 1.0, count)
    grid = np.arange(n) / (n - 1)
    factors = [np.exp(-(((grid[:, None] - centres[:, k]) / widths[:, k]) ** 2) / 2) for k in range(d)]

    def values(i: Array) -> Array:
        found = np.tile(heights, (len(i), 1))
        for k in range(d):
            found = found * factors[k][i[:, k]]
        return found.sum(1)

    name = f"{count} Gaussian peaks of width {width[0]:g}…{width[1]:g}, {n}^{d}"
    return Function(name, (n,) * d, values, eps, (factors[0] * heights, *factors[1:]))


def resonance(bits: int, eps: float) -> Function:
    """A Lorentzian peak on 2^bits points, one index for each bit."""
    weight = 0.5 ** np.arange(1, bits + 1)
    return Function(f"resonance on 2^{bits}", (2,) * bits, lambda i: 1.0 / (1e-4 + (i @ weight - 0.3) ** 2), eps)


def coulomb(n: int, d: int, eps: float) -> Function:
    """1/√(c + |x|²) on a grid."""
    grid = np.linspace(-5.0, 5.0, n)
    return Function(f"1/√(0.1+|x|²), {n}^{d}", (n,) * d, lambda i: 1.0 / np.sqrt(0.1 + (grid[i] ** 2).sum(1)), eps)


def main_cases() -> Iterator[Function]:
    """The functions."""
    yield hilbert(50, 6, 1e-8)
    yield mixture(5, (0.1, 0.3), 50, 6, 1e-6)
    yield mixture(12, (0.06, 0.12), 50, 6, 1e-6)
    yield resonance(20, 1e-8)
    yield coulomb(32, 6, 1e-5)


# --- the true error


def true_error(function: Function, cores: Cores) -> tuple[float, bool]:
    """The relative error of a train, and whether it is exact."""
    if function.factors is not None:
        reference = separable(function.factors)
        return norm(difference(reference, cores)) / norm(reference), True
    if prod(function.shape) <= 2**21:
        points = np.indices(function.shape).reshape(len(function.shape), -1).T
    else:
        rng = np.random.default_rng(1)
        points = np.stack([rng.integers(n, size=400_000) for n in function.shape], axis=1)
    off2 = all2 = 0.0
    for start in range(0, len(points), 2**14):
        part = points[start : start + 2**14]
        values = function.values(part)
        off2 += float(np.square(values - entries(cores, part)).sum())
        all2 += float(np.square(values).sum())
    return (off2 / all2) ** 0.5, prod(function.shape) <= 2**21


def entries(cores: Cores, points: Array) -> Array:
    """Entries of a train."""
    row = cores[0][0, points[:, 0]]
    for k in range(1, len(cores)):
        row = np.einsum("na,nab->nb", row, cores[k].transpose(1, 0, 2)[points[:, k]])
    return row[:, 0]


def separable(factors: Sequence[Array]) -> list[Array]:
    """A train whose cores are diagonal."""
    rank = factors[0].shape[1]
    inner = [np.einsum("ir,rs->ris", f, np.eye(rank)) for f in factors[1:-1]]
    return [factors[0][None], *inner, factors[-1].T[:, :, None]]


def difference(a: Cores, b: Cores) -> list[Array]:
    """a − b, with the ranks of both together."""
    found = [np.concatenate([a[0], -b[0]], axis=2)]
    for x, y in zip(a[1:-1], b[1:-1], strict=True):
        core = np.zeros((x.shape[0] + y.shape[0], x.shape[1], x.shape[2] + y.shape[2]))
        core[: x.shape[0], :, : x.shape[2]], core[x.shape[0] :, :, x.shape[2] :] = x, y
        found.append(core)
    return [*found, np.concatenate([a[-1], b[-1]], axis=0)]


def norm(cores: Cores) -> float:
    """By orthogonalisation: differences of trains that nearly agree are exact to rounding of the trains."""
    left = np.ones((1, 1))
    for core in cores:
        core = np.tensordot(left, core, axes=1)
        left = np.linalg.qr(core.reshape(-1, core.shape[2]), mode="r")
    return float(np.linalg.norm(left))


# --- contenders: (function, shape, eps) to the cores of a train


def by_tnkit(f: Callable[[Array], Array], shape: tuple[int, ...], eps: float) -> Cores:
    return [core.numpy() for core in tk.decompose(f, "tt", shape=shape, eps=eps).tensor.tensors()]


def by_torchtt_dmrg(f: Callable[[Array], Array], shape: tuple[int, ...], eps: float) -> Cores:
    torch.manual_seed(0)
    found = torchtt.interpolate.dmrg_cross(lambda i: torch.from_numpy(f(i.numpy())), list(shape), eps=eps, nswp=20)
    return [core.numpy() for core in found.cores]


def by_torchtt_amen(f: Callable[[Array], Array], shape: tuple[int, ...], eps: float) -> Cores:
    torch.manual_seed(0)
    axes = torchtt.meshgrid([torch.arange(n, dtype=torch.float64) for n in shape])
    found = torchtt.interpolate.function_interpolate(
        lambda x: torch.from_numpy(f(x.round().numpy())), axes, eps=eps, nswp=20, method="amen"
    )
    return [core.numpy() for core in found.cores]


def by_teneva(f: Callable[[Array], Array], shape: tuple[int, ...], eps: float) -> Cores:
    start = teneva.rand(list(shape), 1, seed=0)
    cores: Cores = teneva.cross(f, start, m=3_000_000, e=eps, nswp=20, dr_max=2, cache={})
    return cores


def contenders() -> dict[str, Callable[..., Cores]]:
    """What is installed."""
    found: dict[str, Callable[..., Cores]] = {"tnkit cross": by_tnkit}
    if HAS["torchtt"]:
        found |= {"torchTT dmrg_cross": by_torchtt_dmrg, "torchTT amen cross": by_torchtt_amen}
    if HAS["teneva"]:
        found["teneva cross"] = by_teneva
    return found


def measure(function: Function, who: str, contender: Callable[..., Cores]) -> Row:
    """The first run that keeps the error, or the last."""
    row: Row | None = None
    for factor in TIGHTER:
        counted, eps = Counted(function), function.eps / factor
        begun = time.perf_counter()
        try:
            cores = contender(counted, function.shape, eps)
        except Exception as error:  # another library's failure is a result, and is shown as one
            text = f"{type(error).__name__}: {error}"[:80]
            return row or Row(function.name, who, function.eps, eps, 0, 0, np.inf, False, 0.0, 0, text)
        seconds = time.perf_counter() - begun
        error, exact = true_error(function, cores)
        size = sum(core.size for core in cores)
        row = Row(function.name, who, function.eps, eps, counted.distinct, counted.asked, error, exact, seconds, size)
        if error <= function.eps:
            break
    assert row is not None
    return row


def show(rows: Sequence[Row], console: Console) -> None:
    """One table for each function, fewest entries first."""
    for case in dict.fromkeys(row.case for row in rows):
        mine = sorted((r for r in rows if r.case == case), key=lambda r: (r.true_error > r.asked_eps, r.distinct))
        table = Table(title=f"{case}, to {mine[0].asked_eps:g}", title_justify="left")
        for heading in ("who", "entries", "asked for", "true error", "seconds", "parameters", "given eps"):
            table.add_column(heading, justify="left" if heading == "who" else "right")
        for row in mine:
            if row.failed is not None:
                table.add_row(row.who, "failed", "", row.failed, "", "", "")
                continue
            kind = "" if row.exact else " (sampled)"
            missed = " missed" if row.true_error > row.asked_eps else ""
            table.add_row(
                row.who,
                f"{row.distinct:,}",
                f"{row.asked:,}",
                f"{row.true_error:.2e}{kind}{missed}",
                f"{row.seconds:.2f}",
                f"{row.n_params:,}",
                f"{row.eps:.1e}",
            )
        console.print(table)


def main() -> int:
    """Measure and show; the exit status is 0 whatever the counts are."""
    asked, console = arguments("bench_cross", __doc__), screen()
    rows: list[Row] = []
    for function in itertools.islice(main_cases(), 1 if asked.quick else None):
        if asked.case in function.name:
            mine = [measure(function, who, run) for who, run in contenders().items() if asked.who in who]
            show(mine, console)
            rows += mine
            write_json(asked.json, [asdict(row) for row in rows])
    console.print(f"written to {asked.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
