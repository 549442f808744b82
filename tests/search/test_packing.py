"""Packing of singular values, and the front of all core shapes, against every choice."""

from itertools import product
from math import prod

import numpy as np
import pytest
import torch

import tnkit as tk
from tests.search.planted import dense, random_tree
from tnkit.search import packed_ranks, tucker_front
from tnkit.search.graph import star

SPECTRA = [np.sort(np.random.default_rng(s).exponential(size=n) ** 3)[::-1] for s, n in enumerate((5, 6, 4))]
NODES = {
    "core": [(1, (0, 1, 2)), (7, (0,)), (6, (1,)), (9, (2,))],
    "train": [(7, (0,)), (6, (0, 1)), (5, (1, 2)), (4, (2,))],
}


def size_of(nodes: list[tuple[int, tuple[int, ...]]], ranks: tuple[int, ...]) -> int:
    return sum(fixed * prod(ranks[e] for e in bonds) for fixed, bonds in nodes)


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("part", [0.1, 0.4, 0.8])
def test_the_program_is_as_good_as_every_choice(name: str, part: float) -> None:
    nodes = NODES[name]
    every = list(product(*(range(1, len(s) + 1) for s in SPECTRA)))

    def lost(ranks: tuple[int, ...]) -> float:
        return sum(float(s[r:].sum()) for s, r in zip(SPECTRA, ranks, strict=True))

    sizes = [size_of(nodes, r) for r in every]
    budget = int(min(sizes) + part * (max(sizes) - min(sizes)))
    found = packed_ranks(SPECTRA, nodes, max_params=budget)
    assert found is not None
    assert size_of(nodes, found) <= budget
    best = min(lost(r) for r, size in zip(every, sizes, strict=True) if size <= budget)
    assert lost(found) == pytest.approx(best, rel=1e-3, abs=1e-12)
    allowed = part * sum(float(s.sum()) for s in SPECTRA) / 4
    found = packed_ranks(SPECTRA, nodes, max_error2=allowed)
    assert found is not None
    assert lost(found) <= allowed * (1 + 1e-6)
    least = min(size for r, size in zip(every, sizes, strict=True) if lost(r) <= allowed)
    assert size_of(nodes, found) <= least * 1.002


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_front_holds_the_best_of_all_shapes(dtype: torch.dtype) -> None:
    x = torch.randn((4, 5, 3), generator=torch.Generator().manual_seed(0), dtype=dtype).cumsum(0).cumsum(1)
    front = tucker_front(x, polished=0)
    u = [torch.linalg.svd(x.movedim(k, 0).reshape(n, -1))[0] for k, n in enumerate(x.shape)]
    core = torch.einsum("ijk,ia,jb,kc->abc", x, u[0].conj(), u[1].conj(), u[2].conj())
    points = {}
    for ranks in product(*(range(1, n + 1) for n in x.shape)):
        corner = core[tuple(slice(0, r) for r in ranks)]
        size = prod(ranks) + sum(n * r for n, r in zip(x.shape, ranks, strict=True))
        error = max(1 - float(corner.norm() ** 2 / x.norm() ** 2), 0.0) ** 0.5
        points[size] = min(error, points.get(size, 2.0))
    best, expected = 2.0, []
    for size, error in sorted(points.items()):
        if error < best - 1e-9:
            best = error
            expected.append((size, error))
    sizes = front.sizes.tolist()
    assert sizes[: len(expected) - 1] == [size for size, _ in expected[:-1]]
    for (_, error), mine in zip(expected[:-1], front.errors.tolist(), strict=False):
        assert mine == pytest.approx(error, abs=1e-7)
    for place in range(len(front)):
        ranks = front.at(place)
        assert prod(ranks) + sum(n * r for n, r in zip(x.shape, ranks, strict=True)) == sizes[place]
    assert front.for_size(10**9) == front.at(len(front) - 1)
    assert front.for_error(2.0) == front.at(0) == (1, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_polished_bases_lower_the_front_and_stay_above_what_can_be_reached(dtype: torch.dtype) -> None:
    x = torch.randn((9, 8, 7), generator=torch.Generator().manual_seed(1), dtype=dtype).cumsum(0).cumsum(1)
    plain, front = tucker_front(x, polished=0), tucker_front(x)
    ratios = []
    for size in plain.sizes.tolist()[:-1]:
        before, after = (float(f.errors[int((f.sizes <= size).sum()) - 1]) for f in (plain, front))
        assert after <= before
        ratios.append(after / max(before, 1e-12))
    assert sum(ratios) < 0.995 * len(ratios)
    for place in range(0, len(front), max(1, len(front) // 9)):
        ranks = front.at(place)
        assert prod(ranks) + sum(n * r for n, r in zip(x.shape, ranks, strict=True)) == int(front.sizes[place])
        fit = tk.decompose(x, "tucker", rank=ranks, method=tk.HOOI(max_steps=200))
        assert float(front.errors[place]) >= fit.rel_error * (1 - 1e-3) - 1e-7  # no fit is better than the best


def test_the_front_of_a_core_is_that_of_its_array() -> None:
    graph = star((9, 8, 10), (3, 4, 2))
    x = dense(graph, noise=0.0)
    st = tk.decompose(x, "tucker", rank=(3, 4, 2)).tensor
    whole, part = tucker_front(x), tucker_front(st.core, norm=float(x.norm()), sizes=x.shape)
    for size in (30, 60, 90, 105):
        assert whole.for_size(size) == part.for_size(size)


def test_a_front_of_more_shapes_than_can_be_held_is_refused() -> None:
    with pytest.raises(tk.MemoryLimitError, match="core shapes"):
        tucker_front(torch.zeros(1).expand(11, 10**4, 10**3))


def test_packing_keeps_what_is_asked_and_finds_a_planted_core() -> None:
    graph = star((9, 8, 10, 7), (2, 3, 2, 3))
    x = dense(graph)
    assert tk.search(x, eps=1e-6, strategy="packing").best.fit.n_params == graph.n_params
    noisy = dense(graph, noise=0.1)
    for budget in (60, 120, 200):
        found = tk.search(noisy, budget=budget, strategy="packing").best.fit
        assert found.n_params <= budget
        assert found.rel_error <= tk.decompose(noisy, "tucker", budget=budget, method="st_hosvd").rel_error * 1.001


def test_trees_are_packed_too() -> None:
    graph = random_tree(5, 5, 2)
    found = tk.search(dense(graph, 2), budget=graph.n_params, strategy="packing")
    assert found.best.fit.n_params <= graph.n_params
    assert found.best.fit.rel_error < 0.5
