"""Dense arrays at equal ranks or to an error: `python -m benchmarks.bench_decompose [--quick] [--case TEXT] …`.

Planted tensors with noise, and real data; from 10 MB to 1 GB; skewed shapes, low and high ranks, single, double and
complex precision. Each table has the time of every contender, its ratio to the floor and to tnkit, the true error, the
memory beside the input, and how many numbers the answer has.
"""

import sys
from collections.abc import Iterator, Mapping
from math import prod

import torch

import tnkit as tk
from benchmarks import data, rivals
from benchmarks.harness import Answer, Case, Contender, arguments, run_cases
from tnkit.report import FitReport

#: The fastest of each library: those that run where the full list would take minutes.
FAST = (
    "tntorch",
    "torchTT",
    "tensorly (torch)",
    "tensorly (torch, randomised)",
    "tensorly HOOI (torch, randomised)",
    "pyttb ST-HOSVD",
)
F32, F64, C128 = torch.float32, torch.float64, torch.complex128


def cases(*, quick: bool = False) -> Iterator[Case]:
    """All of them; `quick` for small arrays of the same kinds."""
    if quick:
        yield train((12, 12, 12, 12, 4), 5)
        yield train((12, 12, 12, 12, 4), 5, dtype=F32)
        yield train((2,) * 12, 4)
        yield tucker((24,) * 3, 4)
        yield tight("tt", (12, 12, 12, 12, 4), 5)
        yield tight("tucker", (24,) * 3, 4)
        return
    for dtype in (F64, F32):
        yield train((40, 40, 40, 40, 8), 20, dtype=dtype)
    yield train((16,) * 6, 10)
    yield train((2,) * 24, 8)
    yield train((34,) * 4, 10)
    yield train((1000, 1000, 5), 20, few=True)
    yield train((10_000, 50, 50), 20, few=True)
    yield train((64,) * 4, 200, few=True)
    yield train((40,) * 4, 10, dtype=C128, few=True)
    yield tucker((256,) * 3, 20)
    yield tucker((256,) * 3, 20, dtype=F32, few=True)
    yield tucker((1000, 1000, 5), 20, few=True)
    yield tucker((10_000, 50, 50), 20, few=True)
    yield tight("tt", (40, 40, 40, 40, 8), 20)
    yield tight("tucker", (256,) * 3, 20)
    yield by_eps((40, 40, 40, 40, 8), 20, 2e-3)
    yield tree((64,) * 4, 10)
    for name, make in data.real().items():
        yield from real(name, make)
    yield train((64, 64, 64, 512), 20, few=True)


def title(format: str, shape: tuple[int, ...], what: str, dtype: torch.dtype = F64) -> str:
    """Of a case."""
    sizes = f"2^{len(shape)}" if set(shape) == {2} else "×".join(map(str, shape))
    return f"{format} {sizes}, {what}, {str(dtype).removeprefix('torch.')}"


def narrowest(shape: tuple[int, ...], ranks: tuple[int, ...]) -> float:
    """Flops of one product of the array with the basis of its narrowest cut."""
    return 2.0 * prod(shape) * min(ranks)


def capped(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """The rank at every cut of a train, where the shape admits it."""
    return tuple(min(rank, prod(shape[:k]), prod(shape[k:])) for k in range(1, len(shape)))


def ours(format: str, **asked: object) -> Contender:
    return lambda x: answer(tk.decompose(x, format, **asked))  # type: ignore[arg-type]


def answer(fit: FitReport) -> Answer:
    return Answer(fit.tensor.to_dense, fit.n_params)


def train(
    shape: tuple[int, ...], rank: int, noise: float = 1e-3, dtype: torch.dtype = F64, *, few: bool = False
) -> Case:
    """A planted train at its ranks; `few` leaves out contenders that would need minutes."""
    ranks = capped(shape, rank)
    others = fast(rivals.trains(ranks)) if few else rivals.trains(ranks)
    full = min(range(1, len(shape)), key=lambda k: max(prod(shape[:k]), prod(shape[k:])))
    inner = [r for k, r in enumerate(ranks, 1) if r < min(prod(shape[:k]), prod(shape[k:]))] or [ranks[full - 1]]
    name = title("TT", shape, f"rank {rank}, noise {noise:g}", dtype)
    who = {"tnkit": ours("tt", rank=rank), **others}
    return Case(name, data.train(shape, rank, noise, dtype), who, narrowest(shape, tuple(inner)), "TT", 6.0)


def fast(who: Mapping[str, Contender]) -> dict[str, Contender]:
    """The fastest of each library."""
    return {name: run for name, run in who.items() if name in FAST}


def tucker(
    shape: tuple[int, ...], rank: int, noise: float = 1e-2, dtype: torch.dtype = F64, *, few: bool = False
) -> Case:
    """A planted Tucker tensor at its ranks."""
    ranks = tuple(min(rank, n) for n in shape)
    name = title("Tucker", shape, f"rank {rank}, noise {noise:g}", dtype)
    others = fast(rivals.tuckers(ranks)) if few else rivals.tuckers(ranks)
    who = {"tnkit": ours("tucker", rank=ranks), **others}
    return Case(name, data.tucker(shape, rank, noise, dtype), who, narrowest(shape, ranks), "Tucker", 6.0)


def tight(format: str, shape: tuple[int, ...], rank: int, eps: float = 1e-12) -> Case:
    """Exact data to nearly rounding."""
    chain = format == "tt"
    make = data.train(shape, rank, 0.0) if chain else data.tucker(shape, rank, 0.0)
    others = rivals.trains_by_eps(eps) if chain else rivals.tuckers_by_eps(eps)
    name = title("TT" if chain else "Tucker", shape, f"eps {eps:g} of rank {rank}")
    return Case(name, make, {"tnkit": ours(format, eps=eps), **others}, narrowest(shape, (rank,)), "tight eps", 6.0)


def by_eps(shape: tuple[int, ...], rank: int, eps: float) -> Case:
    """A planted train with noise of 1e-3, to an error above it."""
    name = title("TT", shape, f"eps {eps:g}, noise 0.001")
    who = {"tnkit": ours("tt", eps=eps), **rivals.trains_by_eps(eps)}
    return Case(name, data.train(shape, rank, 1e-3), who, narrowest(shape, (rank,)), "eps", 6.0)


def tree(shape: tuple[int, ...], rank: int) -> Case:
    """Hierarchical Tucker; no other library that installs has it."""
    name = title("tree", shape, f"rank {rank}, noise 0.001")
    return Case(name, data.tree(shape, rank), {"tnkit": ours("ht", rank=rank)}, narrowest(shape, (rank,)), "tree")


def real(name: str, make: data.Made) -> Iterator[Case]:
    """TT, Tucker and ring of real data at fixed ranks."""
    shape = tuple(make().shape)
    chain, core = capped(shape, 40), tuple(min(40, n) for n in shape)
    yield Case(
        f"TT {name}, rank 40",
        make,
        {"tnkit": ours("tt", rank=chain), **rivals.trains(chain)},
        narrowest(shape, chain),
        "real",
    )
    who = {
        "tnkit": ours("tucker", rank=core),
        "tnkit HOOI": ours("tucker", rank=core, method=tk.HOOI(max_steps=5)),
        **rivals.tuckers(core),
    }
    yield Case(f"Tucker {name}, rank 40", make, who, narrowest(shape, core), "real")
    if len(shape) == 3:
        ranks = (4, 20, 5)
        who = {"tnkit SVD": ours("tr", rank=ranks, method="ring_svd"), **rivals.rings(ranks)}
        yield Case(f"ring {name}, rank (4, 20, 5)", make, who, narrowest(shape, (20,)), "real")


if __name__ == "__main__":
    asked = arguments("bench_decompose", __doc__)
    run_cases(cases(quick=asked.quick), asked)
    sys.exit(0)
