"""Trees: states and their moves, the search for a price, cores, and what the whole finds."""

import itertools
from math import prod

import pytest
import torch

import tnkit as tk
from tests.search.planted import dense, random_tree
from tnkit.search import Graph
from tnkit.search.graph import chain, star
from tnkit.search.objective import DenseObjective
from tnkit.search.tree_fit import TreeFits, core_of, in_core, on_array, start_from
from tnkit.search.tree_refine import refined, squeezed
from tnkit.search.tree_state import TreeState
from tnkit.search.tree_trades import Aim, trimmed
from tnkit.solvers import Control


def noisy(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Decaying spectra in every cut, norm 1."""
    gen = torch.Generator().manual_seed(seed)
    grids = torch.meshgrid(*(torch.linspace(0, 1, n, dtype=torch.float64) for n in shape), indexing="ij")
    x = 1 / (0.3 + sum(grids)) + 0.02 * torch.randn(shape, generator=gen, dtype=torch.float64)
    return x / x.norm()


def error2(state: TreeState) -> float:
    graph, tensors = state.network()
    return float((state.x - graph.layout().build(tensors).to_dense()).norm()) ** 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_no_move_raises_entries_and_priced_error_and_the_error_is_true(dtype: torch.dtype) -> None:
    x = noisy((5, 6, 4, 5)).to(dtype)
    if x.is_complex():
        x = x * torch.exp(1j * torch.linspace(0, 3, 5, dtype=torch.float64))
    state, price, before = TreeState.star(x, x.shape), 3e4, float("inf")
    for _ in range(4):
        for leg in list(state.bonds):
            if leg in state.bonds:
                state.fit_pair(leg, price, reshape=True)
                now = state.n_params + price * state.error2
                assert now <= before * (1 + 1e-9)
                before = now
                assert state.error2 == pytest.approx(error2(state), rel=1e-6, abs=1e-14)
    graph, tensors = state.network()
    assert graph.n_params == sum(t.numel() for t in tensors) == state.n_params


def test_all_nodes_but_the_centre_are_isometries() -> None:
    state = TreeState.star(noisy((4, 5, 4, 3)), (4, 5, 4, 3))
    state.sweep(2e3, reshape=True)
    towards = dict(state._inwards((state.centre,)))
    for node, leg in towards.items():
        t = state.tensors[node]
        axis = state.legs[node].index(leg)
        flat = t.movedim(axis, -1).reshape(-1, t.shape[axis])
        assert torch.allclose(flat.mH @ flat, torch.eye(t.shape[axis], dtype=t.dtype), atol=1e-10)


def test_a_copy_is_apart() -> None:
    state = TreeState.star(noisy((4, 5, 4)), (4, 5, 4))
    other = state.copy()
    other.sweep(1e2, reshape=True)
    assert state.n_params == 4 * 5 * 4 + 16 + 25 + 16
    assert other.n_params < state.n_params


@pytest.mark.parametrize("eps", [0.3, 0.05])
def test_what_is_refined_keeps_the_error_and_what_is_trimmed_or_squeezed_is_no_larger(eps: float) -> None:
    x = noisy((6, 5, 6, 4), 1)
    aim = Aim(eps**2, None, lambda: False)
    one = refined(TreeState.star(x, x.shape), aim)
    two = trimmed(one, aim)
    three = squeezed(two, aim)
    for state in (one, two, three):
        assert error2(state) <= eps**2 * (1 + 1e-9)
    assert three.n_params <= two.n_params <= one.n_params


def test_a_size_is_kept() -> None:
    x = noisy((6, 5, 6, 4), 2)
    errors = []
    for size in (40, 80, 200):
        aim = Aim(None, size, lambda: False)
        first = refined(TreeState.star(x, x.shape), aim)
        state = trimmed(first, aim)
        assert max(first.n_params, state.n_params) <= size
        assert state.error2 <= first.error2
        errors.append(state.error2)
    assert errors == sorted(errors, reverse=True)


def test_a_search_that_is_out_of_time_gives_what_it_has() -> None:
    x = noisy((6, 5, 6, 4), 2)
    state = refined(TreeState.star(x, x.shape), Aim(0.01, None, lambda: True))
    assert state.error2 <= 0.01


@pytest.mark.parametrize("eps", [0.2, 0.02])
def test_a_core_loses_a_small_share_and_a_tree_goes_there_and_back(eps: float) -> None:
    x = dense(star((12, 9, 11, 10), (3, 2, 3, 2)), noise=0.05 * eps)
    norm = float(x.norm())
    core = core_of(x, norm, eps)
    assert 0 < core.lost2 <= 0.1 * (eps * norm) ** 2
    assert core.x.numel() < x.numel()
    state = start_from(core, star(tuple(x.shape), (3, 3, 3, 3)), torch.Generator().manual_seed(0))
    whole = on_array(core, state, x)
    assert whole.error2 == pytest.approx(state.error2 + core.lost2, rel=1e-6)
    back = in_core(core, *whole.network())
    assert back.error2 == pytest.approx(state.error2, rel=1e-6)
    assert back.n_params == state.n_params


def test_parts_that_no_bond_joins_are_one_tree() -> None:
    a, b = noisy((4, 5)), noisy((3, 6))
    x = torch.einsum("ij,kl->ijkl", a, b)
    found = tk.search(x, eps=1e-3, strategy="trees").best.fit
    assert found.rel_error <= 1e-3
    both = sum(tk.search(part, eps=1e-3 / 2**0.5, strategy="trees").best.fit.n_params for part in (a, b))
    assert found.n_params <= both


def test_bounds_in_the_core_are_bounds_of_the_array() -> None:
    x = dense(random_tree(4, 9, 3), noise=0.05)
    control, gen = Control(), torch.Generator().manual_seed(0)
    fits = TreeFits(x, float(x.norm()), 0.2, None, gen, control)
    assert fits.core.x.numel() < x.numel()
    for mask in range(1, 8):
        rows = [k for k in range(4) if mask >> k & 1]
        columns = [k for k in range(4) if k not in rows]
        s2 = torch.linalg.svdvals(x.permute(*rows, *columns).reshape(prod(x.shape[k] for k in rows), -1)).square()
        tails = fits.cuts.tails(mask)
        for rank in range(len(tails)):
            assert tails[rank] <= float(s2[rank:].sum()) + 1e-12


@pytest.mark.parametrize(("d", "n"), [(5, 4), (6, 4), (7, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_planted_trees_with_branches_are_found_and_proved(d: int, n: int, seed: int) -> None:
    graph = random_tree(d, n, seed)
    found = tk.search(dense(graph, seed), eps=1e-6, strategy="trees")
    assert found.best.fit.rel_error <= 1e-6
    assert found.best.fit.n_params <= graph.n_params
    assert dict(found.bounds)["any tree"] <= found.best.fit.n_params


def test_noise_does_not_hide_a_tree() -> None:
    graph = random_tree(5, 5, 1)
    found = tk.search(dense(graph, 1, noise=1e-3), eps=1.05e-3, strategy="trees")
    assert found.best.fit.n_params <= graph.n_params
    assert found.best.fit.rel_error <= 1.05e-3


def test_a_tree_is_no_larger_than_any_train_or_tucker() -> None:
    x = noisy((8, 7, 6, 5), 4)
    for eps in (0.1, 0.03):
        best = tk.search(x, eps=eps, strategy="trees").best.fit
        assert best.rel_error <= eps
        for name in ("tt", "tucker", "ht"):
            assert best.n_params <= tk.decompose(x, name, eps=eps).n_params


def test_fits_of_trees_at_ranks_are_no_worse_than_the_named_methods() -> None:
    x = noisy((8, 7, 6, 5), 5)
    problem = DenseObjective(x, 1.0, eps=1e-3, max_params=None, rng=torch.Generator().manual_seed(0), control=Control())
    for ranks in ((2, 2, 2, 2), (3, 2, 3, 2)):
        mine = problem.fit(star(tuple(x.shape), ranks)).error
        assert mine <= 1.001 * tk.decompose(x, "tucker", rank=ranks).rel_error
    mine = problem.fit(chain(tuple(x.shape), (2, 3, 2))).error
    assert mine <= 1.001 * tk.decompose(x, "tt", rank=(2, 3, 2)).rel_error


def test_every_small_graph_comes_back_from_a_state_as_it_was() -> None:
    for nodes, ranks in itertools.product(([(0,), (1, 2), (3,), ()], [(3, 0), (1,), (), (2,)]), (2, 3)):
        graph = Graph((4, 4, 4, 4), nodes, {(k, 3 if nodes[3] == () else 2): ranks for k in range(4) if nodes[k]})
        if not graph.is_tree:
            continue
        x = dense(graph)
        state = start_from(core_of(x, 1.0, None), graph, torch.Generator().manual_seed(0))
        back, tensors = state.network()
        assert back.key == graph.key
        assert torch.allclose(back.layout().build(tensors).to_dense(), x, atol=1e-10)
