"""Structure searches: `python -m benchmarks.bench_search [--case TEXT] [--seeds N] [--json PATH]`.

For every strategy of tnkit and every rival that is installed: numbers, the error of the dense result, fits and seconds.
A size counts only where the error keeps eps. Seeds set the random numbers of the search; where the data are drawn, they
set those too, the same for all. Rows of a search that ended by its limit say so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import tnkit as tk
from benchmarks import search_data as data
from benchmarks.harness import Machine, machine, relative_error, screen, write_json
from tnkit.search import STRATEGIES, Graph, Proposer, packed_ranks, tucker_front
from tnkit.search.graph import ring

HAS = {name: find_spec(name) is not None for name in ("tensorly", "torchtt", "tntorch", "pyttb", "tensap", "quimb")}
if HAS["torchtt"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says on import that its compiled part is missing
        import torchtt
if HAS["tntorch"]:
    import tntorch
if HAS["pyttb"]:
    import pyttb
if HAS["tensap"]:
    import tensap
if HAS["quimb"]:
    import quimb.tensor as quimb

EPS = (0.1, 0.05, 0.02)
#: For each real case: strategies, and the seconds that each may take.
REAL = {"kinetic": ("trees", "packing", "several", "greedy"), "astronaut": ("trees",), "Indian": ("trees", "packing")}
LIMIT_S = 10.0
RING_ENTRIES = 5000  # of a ring, beyond which quimb's fit takes minutes
FIRST = 1000  # seed of the synthetic targets; no search was made on those from here on


@dataclass(frozen=True, slots=True)
class Row:
    """One search."""

    case: str
    who: str
    seed: int
    eps: float
    n_params: int | None = None
    rel_error: float | None = None
    evaluations: int | None = None
    seconds: float | None = None
    processor_s: float | None = None
    entries: int = 0
    planted: int | None = None
    bound: int | None = None
    found: str = ""
    status: str = ""
    source: str = ""

    @property
    def kept(self) -> bool:
        """Whether the error is what was asked."""
        return self.rel_error is not None and self.rel_error <= self.eps * (1 + 1e-9)


Answer = tuple[int, Callable[[], Tensor]]


def searched(x: Tensor, eps: float, strategy: str | Proposer, seed: int, base: Row, **options: object) -> Row:
    """One of tnkit's."""
    begun, worked = time.perf_counter(), time.process_time()
    try:
        result = tk.search(x, eps=eps, strategy=strategy, rng=seed, **options)  # type: ignore[arg-type]
    except tk.TnkitError as error:  # it does not take such an array, or had no time for a single fit
        return replace(base, status=f"{type(error).__name__}: {error}"[:80])
    seconds, worked, fit = time.perf_counter() - begun, time.process_time() - worked, result.best.fit
    error = relative_error(x, fit.tensor.to_dense())
    bounds = [least for _, least in result.bounds]
    return replace(
        base,
        n_params=fit.n_params,
        rel_error=error,
        evaluations=result.evaluations,
        seconds=seconds,
        processor_s=worked,
        bound=min(bounds) if bounds else None,
        found=result.best.label,
        status=result.status.name,
    )


def rivals(eps: float) -> dict[str, Callable[[Tensor], Answer]]:
    """The direct methods of other libraries, in the order of modes that is given: none of them searches."""
    found: dict[str, Callable[[Tensor], Answer]] = {}
    if HAS["torchtt"]:
        found["torchTT TT"] = lambda x: of_train(torchtt.TT(x, eps=eps).cores)
    if HAS["tntorch"]:
        found["tntorch TT"] = lambda x: of_train(tntorch.round_tt(tntorch.Tensor(x), eps=eps).cores)
    if HAS["pyttb"]:
        found["pyttb HOSVD"] = lambda x: pyttb_hosvd(x, eps)
    if HAS["quimb"]:
        found["quimb TT"] = lambda x: quimb_train(x, eps)
    if HAS["tensap"]:
        found["tensap balanced tree"] = lambda x: tensap_tree(x, eps)
        found["tensap TT"] = lambda x: tensap_train(x, eps)
    return found


def of_train(cores: list[Tensor]) -> Answer:
    def dense() -> Tensor:
        x = cores[0].reshape(-1, cores[0].shape[-1])
        for core in cores[1:]:
            x = (x @ core.reshape(core.shape[0], -1)).reshape(-1, core.shape[-1])
        return x.reshape([core.shape[1] for core in cores])

    return sum(core.numel() for core in cores), dense


def pyttb_hosvd(x: Tensor, eps: float) -> Answer:
    value = pyttb.hosvd(pyttb.tensor(x.numpy()), tol=eps, verbosity=0)
    size = value.core.data.size + sum(f.size for f in value.factor_matrices)
    return size, lambda: torch.as_tensor(np.ascontiguousarray(value.full().data))


def truncator(eps: float) -> object:
    made = tensap.Truncator()
    made.tolerance, made.max_rank = eps, 10**6
    return made


def tensap_tree(x: Tensor, eps: float) -> Answer:
    value = truncator(eps).hsvd(tensap.FullTensor(x.numpy()), tensap.DimensionTree.balanced(x.ndim))
    return int(value.storage()), lambda: torch.as_tensor(np.ascontiguousarray(value.full().data))


def tensap_train(x: Tensor, eps: float) -> Answer:
    value = truncator(eps).ttsvd(tensap.FullTensor(x.numpy()))
    return int(value.storage()), lambda: torch.as_tensor(np.ascontiguousarray(value.full().data))


def quimb_train(x: Tensor, eps: float) -> Answer:
    """Each bond may lose an equal share of the squared error."""
    share = eps**2 / (x.ndim - 1)
    value = quimb.MatrixProductState.from_dense(x.numpy(), dims=x.shape, cutoff=share, cutoff_mode="rsum2")
    labels = tuple(f"k{k}" for k in range(x.ndim))
    size = sum(t.size for t in value.tensors)
    return size, lambda: torch.as_tensor(value.contract(output_inds=labels).data)


def quimb_ring(x: Tensor, eps: float, seed: int, base: Row) -> Row | None:
    """Alternating least squares at the ranks of tnkit's ring; None where those are too large for it."""
    own = tk.decompose(x, "tr", eps=eps, rng=seed)
    if own.n_params > RING_ENTRIES:
        return None
    graph = ring(x.shape, own.tensor.ranks)
    row = rival(x, lambda x: quimb_fit(x, graph, seed), replace(base, who="quimb ring ALS, ranks of tnkit's ring"))
    return replace(row, found="×".join(map(str, own.tensor.ranks)))


def quimb_fit(x: Tensor, graph: Graph, seed: int) -> Answer:
    """Alternating least squares from a random start, where the graph and its ranks are given."""
    gen = torch.Generator().manual_seed(10_000 + seed)  # not the numbers that were planted
    topology, shapes = graph.topology, graph.layout().shapes(graph.bond_ranks())
    nodes = [
        quimb.Tensor(torch.randn(s, generator=gen, dtype=torch.float64).numpy(), inds=labels)
        for labels, s in zip(topology.inputs, shapes, strict=True)
    ]
    target = quimb.Tensor(x.numpy(), inds=topology.output).as_network()
    value = quimb.TensorNetwork(nodes).fit(target, method="als", steps=200, tol=1e-9, progbar=False)
    return graph.n_params, lambda: torch.as_tensor(value.contract(output_inds=topology.output).data)


def rival(x: Tensor, make: Callable[[Tensor], Answer], base: Row) -> Row:
    """One of theirs; a failure is a result."""
    begun, worked = time.perf_counter(), time.process_time()
    try:
        size, dense = make(x)
        spent = {"seconds": time.perf_counter() - begun, "processor_s": time.process_time() - worked}
        return replace(base, n_params=size, rel_error=relative_error(x, dense()), evaluations=1, **spent)
    except Exception as error:  # another library's failure is a result, and is shown as one
        return replace(base, status=f"{type(error).__name__}: {error}"[:80])


def real_cases(seeds: int) -> Iterator[Callable[[], Iterator[Row]]]:
    """Real arrays at three errors: tnkit's strategies and the others' formats."""
    for name, make in data.real().items():

        def rows(name: str = name, make: Callable[[], Tensor] = make) -> Iterator[Row]:
            x = make()
            for eps in EPS:
                base = Row(name, "", 0, eps, entries=x.numel())
                for who in next(v for k, v in REAL.items() if name.startswith(k)):
                    limit = None if who in ("trees", "packing") else LIMIT_S
                    for seed in range(seeds):
                        named = replace(base, who=f"tnkit {who}", seed=seed)
                        yield searched(x, eps, who, seed, named, time_limit_s=limit)
                for who, contender in rivals(eps).items():
                    yield rival(x, contender, replace(base, who=who))
                for seed in range(seeds if HAS["quimb"] and name.startswith("kinetic") else 0):
                    fitted = quimb_ring(x, eps, seed, replace(base, seed=seed))
                    if fitted is None:
                        break
                    yield fitted

        rows.__doc__ = name
        yield rows


def reshaped_case(seeds: int) -> Iterator[Row]:
    """Indian Pines 145×145×200 by any reshaping"""
    x = data.pines()
    base = Row("Indian Pines 145×145×200 by any reshaping", "tnkit trees", 0, 0.05, entries=x.numel())
    for seed in range(seeds):
        yield searched(x, 0.05, "trees", seed, replace(base, seed=seed), shape="auto")
    yield searched(x, 0.05, "packing", 0, replace(base, who="tnkit packing, no reshaping"))


def core_case() -> Iterator[Row]:
    """Tucker core shapes"""
    made: dict[str, Tensor] = {}
    for name, make, size in data.core_cases():
        x = made.setdefault(name, make())
        base = Row(f"Tucker core shapes: {name}, {size}", "", 0, 1.0, entries=x.numel())
        begun = time.perf_counter()
        front = tucker_front(x)
        seconds = time.perf_counter() - begun
        place = int((front.sizes <= size).sum()) - 1
        shown = "×".join(map(str, front.at(place)))
        yield replace(
            base,
            who="tnkit front of all shapes",
            n_params=int(front.sizes[place]),
            rel_error=float(front.errors[place]),
            evaluations=0,
            seconds=seconds,
            found=shown,
        )
        begun = time.perf_counter()
        spectra = [torch.linalg.svdvals(x.movedim(k, 0).reshape(n, -1)).square().numpy() for k, n in enumerate(x.shape)]
        nodes = [(1, tuple(range(x.ndim))), *((n, (k,)) for k, n in enumerate(x.shape))]
        ranks = packed_ranks(spectra, nodes, max_params=size)
        seconds = time.perf_counter() - begun
        if ranks is not None:
            fit = tk.decompose(x, "tucker", rank=ranks, method="st_hosvd")
            error = relative_error(x, fit.tensor.to_dense())
            yield replace(
                base,
                who="packing of singular values",
                n_params=fit.n_params,
                rel_error=error,
                evaluations=1,
                seconds=seconds,
                found="×".join(map(str, ranks)),
            )
        begun = time.perf_counter()
        result = tk.search(x, budget=size, strategy=STRATEGIES.get("packing")(trees=False))
        fit = result.best.fit
        yield replace(
            base,
            who="tnkit packing, polished",
            n_params=fit.n_params,
            rel_error=relative_error(x, fit.tensor.to_dense()),
            evaluations=result.evaluations,
            seconds=time.perf_counter() - begun,
            found=result.best.label,
        )


def tree_case() -> Iterator[Row]:
    """planted trees"""
    for order, n in ((5, 6), (6, 5), (7, 4)):
        for seed in range(20):
            graph = data.random_tree(order, n, seed)
            x = data.planted(graph, seed)
            base = Row(f"planted trees of order {order}", "tnkit trees", seed, 1e-6, entries=x.numel())
            yield searched(x, 1e-6, "trees", seed, replace(base, planted=graph.n_params))


def synthetic_case(seeds: int) -> Iterator[Row]:
    """synthetic targets"""
    targets = data.greedy_targets() | data.loopy_targets()
    for seed in range(FIRST, FIRST + seeds):
        for name, graph in targets.items():
            for noise, eps in ((0.0, 1e-4), (1e-3, 1.1e-3)):
                x = data.planted(graph, seed, noise=noise)
                base = Row(f"synthetic targets, noise {noise:g}: {name}", "tnkit auto", seed, eps, entries=x.numel())
                yield searched(x, eps, "auto", seed, replace(base, planted=graph.n_params))
                if HAS["quimb"]:
                    given = replace(base, who="quimb ALS, graph and ranks given", planted=graph.n_params)
                    yield rival(x, lambda x, graph=graph, seed=seed: quimb_fit(x, graph, seed), given)


def rgtn_case() -> Iterator[Row]:
    """RGTN order"""
    for order, names in ((6, ("trees", "matched", "several")), (8, ("trees", "matched"))):
        for seed in range(10):
            graph, x = data.rgtn(order, seed)
            base = Row(f"RGTN order {order}", "", seed, 0.01, entries=x.numel(), planted=graph.n_params)
            for who in names:
                limit = 3.0 if order == 6 else 60.0  # half of what the paper takes
                yield searched(x, 0.01, who, seed, replace(base, who=f"tnkit {who}"), time_limit_s=limit)


def beside(seeds: int, limit_s: float) -> Iterator[Row]:
    """strategies beside each other"""
    target = data.greedy_targets()
    for name in ("triangle(5,2,5,2,2)", "TR(2,3,4,5,5)"):
        graph = target[name]
        for seed in range(seeds):
            x = data.planted(graph, seed)
            base = Row(f"strategies beside each other: {name}", "", seed, 1e-2, entries=x.numel())
            base = replace(base, planted=graph.n_params)
            for who in STRATEGIES:
                yield searched(x, 1e-2, who, seed, replace(base, who=f"tnkit {who}"), time_limit_s=limit_s)


def cases(seeds: int, *, quick: bool = False) -> dict[str, Callable[[], Iterator[Row]]]:
    """All of them by name."""
    found = {str(rows.__doc__): rows for rows in real_cases(seeds)}
    if HAS["tensorly"]:
        found[str(reshaped_case.__doc__)] = lambda: reshaped_case(seeds)
        found[str(core_case.__doc__)] = core_case
    found |= {str(rows.__doc__): rows for rows in (tree_case, rgtn_case)}
    found[str(synthetic_case.__doc__)] = lambda: synthetic_case(seeds)
    found[str(beside.__doc__)] = lambda: beside(seeds, 0.5 if quick else 2.0)
    if quick:
        return {name: rows for name, rows in found.items() if name.startswith(("kinetic", "strategies"))}
    return found


def show(console: Console, rows: list[Row]) -> None:
    """Medians over the seeds, by case, error and who."""
    for case in dict.fromkeys(row.case for row in rows):
        table = Table(title=case, title_justify="left")
        headings = ("who", "eps", "numbers", "CR %", "error", "kept", "fits", "seconds", "CPU s", "planted", "at least")
        for heading in headings:
            table.add_column(heading, justify="left" if heading == "who" else "right")
        for line in summary([row for row in rows if row.case == case]):
            table.add_row(*line)
        for p in data.PUBLISHED.get(case, []):
            table.add_row(
                f"{p.who} (published)", f"{p.eps:g}", "", f"{p.cr}", "", "", "", f"{p.seconds:,.0f}", "", "", ""
            )
        console.print(table)


def summary(rows: list[Row]) -> Iterator[tuple[str, ...]]:
    """A line for each who and eps."""
    for eps in dict.fromkeys(row.eps for row in rows):
        for who in dict.fromkeys(row.who for row in rows if row.eps == eps):
            mine = [row for row in rows if row.who == who and row.eps == eps and row.n_params is not None]
            if not mine:
                failed = next(row.status for row in rows if row.who == who and row.eps == eps)
                yield who, f"{eps:g}", "failed", "", failed, "", "", "", "", "", ""
                continue

            def middle(name: str, mine: list[Row] = mine) -> float:
                return statistics.median(float(getattr(row, name) or 0) for row in mine)

            ratio = statistics.median(100 * (row.n_params or 0) / row.entries for row in mine)
            planted = [row.planted for row in mine if row.planted]
            hit = sum(row.kept and (row.n_params or 0) <= (row.planted or 0) for row in mine)
            bounds = [row.bound for row in mine if row.bound]
            yield (
                who,
                f"{eps:g}",
                f"{middle('n_params'):,.0f}",
                f"{ratio:.3g}",
                f"{middle('rel_error'):.3g}",
                f"{sum(row.kept for row in mine)}/{len(mine)}",
                f"{middle('evaluations'):,.0f}",
                f"{middle('seconds'):.2f}",
                f"{middle('processor_s'):.2f}",
                f"{hit}/{len(mine)}" if planted else "",
                f"{statistics.median(bounds):,.0f}" if bounds else "",
            )


def written(path: Path, on: Machine, rows: list[Row], done: list[str], whole: int) -> None:
    """The rows, the cases that are done, and how many rows these have."""
    published = {k: [asdict(p) for p in v] for k, v in data.PUBLISHED.items()}
    told = {"machine": asdict(on), "done": done, "whole": whole, "published": published}
    write_json(path, {**told, "rows": [asdict(r) for r in rows]})


def main() -> int:
    """Measure and show; the exit status is 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_search", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few cases with short limits, to see that all runs")
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    parser.add_argument("--seeds", type=int, default=5, help="of each search (default 5)")
    parser.add_argument("--json", type=Path, default=Path("out/bench_search.json"), help="where to write")
    parser.add_argument("--resume", action="store_true", help="go on after the last case that the file has whole")
    asked = parser.parse_args()
    console, rows, done = screen(), list[Row](), list[str]()
    if asked.resume and asked.json.exists():
        before = json.loads(asked.json.read_text())
        done = list(before["done"])
        rows = [Row(**row) for row in before["rows"][: before["whole"]]]
    on = machine(("tensorly", "torchtt", "tntorch", "pyttb", "tensap", "quimb"))
    for name, case in cases(1 if asked.quick else asked.seeds, quick=asked.quick).items():
        if asked.case in name and name not in done:
            mine = list[Row]()
            for row in case():
                mine.append(row)
                written(asked.json, on, [*rows, *mine], done, len(rows))
            rows += mine
            done.append(name)
            written(asked.json, on, rows, done, len(rows))
            show(console, mine)
    console.print(f"written to {asked.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
