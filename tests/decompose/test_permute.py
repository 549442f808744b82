"""permute=True: the best order, merges and splits that are found; never worse than the given order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnkit as tk
from tests.properties.data import DTYPES, array, kinds, shapes, true_error
from tnkit.decompose.cut_spectra import Atoms, CutSpectra, grouped_modes, split_modes
from tnkit.decompose.structures import best_orders, cheap_chains, cheap_groups, cheap_trees
from tnkit.formats import random_format
from tnkit.linalg import tails

FORMATS = ("tt", "tucker", "ht", "lowrank")


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=15)
@given(shape=shapes(most=6), kind=kinds(), eps=st.sampled_from([0.3, 0.1, 0.01, 1e-6]), seed=st.integers(0, 10**6))
def test_never_larger_and_eps_is_kept(name, shape, kind, eps, seed):
    x = array(shape, kind, seed)
    given_order = tk.decompose(x, name, eps=eps)
    fit = tk.decompose(x, name, eps=eps, permute=True)
    assert fit.tensor.shape == tuple(shape)
    assert fit.status.ok
    assert true_error(x, fit.tensor.to_dense()) <= eps * (1 + 1e-6)
    assert fit.n_params <= given_order.n_params


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=10)
@given(shape=shapes(least=2, most=5), kind=kinds(), fraction=st.floats(0.2, 1.0), seed=st.integers(0, 10**6))
def test_a_budget_is_kept_with_no_larger_error(name, shape, kind, fraction, seed):
    x = array(shape, kind, seed)
    try:
        given_order = tk.decompose(x, name, budget=fraction)
    except tk.BudgetError:
        return
    fit = tk.decompose(x, name, budget=fraction, permute=True)
    assert fit.n_params <= fraction * x.numel()
    assert fit.rel_error <= given_order.rel_error * (1 + 1e-6) + 1e-12


@settings(max_examples=10)
@given(shape=shapes(least=2, most=5), kind=kinds(), rank=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_ranks_alone_choose_an_order(shape, kind, rank, seed):
    x = array(shape, kind, seed)
    fit = tk.decompose(x, "tt", rank=rank, permute=True)
    assert all(r <= rank for r in fit.ranks)
    large = [sorted(n for n in sizes if n > 1) for sizes in (fit.tensor.inner_shape, shape)]
    assert large[0] == large[1]  # neither merged nor split
    assert fit.rel_error <= tk.decompose(x, "tt", rank=rank).rel_error * (1 + 1e-6) + 1e-12


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_planted_order_is_found(dtype):
    planted = random_format("tt", (7, 6, 5, 8, 6), (3, 2, 3, 3), dtype=dtype, rng=4)
    order = (3, 0, 4, 1, 2)
    x = planted.to_dense().permute(order)
    eps = 1e-3
    assert tk.decompose(x, "tt", eps=eps).n_params > 2 * planted.n_params
    fit = tk.decompose(x, "tt", eps=eps, permute=True)
    assert fit.n_params <= planted.n_params
    assert fit.rel_error <= eps
    by_rank = tk.decompose(x, "tt", rank=3, permute=True)
    assert by_rank.rel_error < 1e-5
    assert "permute (" in by_rank.why


def test_modes_that_belong_together_are_merged():
    gen = torch.Generator().manual_seed(0)
    a, b = (torch.randn(6, 6, generator=gen, dtype=torch.float64) for _ in range(2))
    x = torch.einsum("ik,jl->ijkl", a, b)  # of rank 1 between (i, k) and (j, l)
    fit = tk.decompose(x, "tt", eps=1e-9, permute=True)
    assert fit.n_params == 72
    assert tk.decompose(x, "tucker", eps=1e-9, permute=True).n_params <= 73


def test_modes_that_are_grids_are_split():
    t = torch.linspace(0.0, 1.0, 64, dtype=torch.float64)
    x = torch.exp(-3 * t[:, None] - t[None]) + torch.sin(5 * t[:, None] + 2 * t[None])
    fit = tk.decompose(x, "tt", eps=1e-6, permute=True)
    assert fit.n_params < 0.6 * tk.decompose(x, "tt", eps=1e-6).n_params
    assert len(fit.tensor.inner_shape) > 2
    assert fit.tensor.shape == (64, 64)


def test_ring_and_automatic_structure():
    x = random_format("tt", (6, 5, 6, 5), 2, rng=0).to_dense().permute(2, 0, 3, 1)
    ring = tk.decompose(x, "tr", eps=1e-3, permute=True)
    assert ring.n_params <= tk.decompose(x, "tr", eps=1e-3).n_params
    assert true_error(x, ring.tensor.to_dense()) <= 1e-3
    auto = tk.decompose(x, "auto", eps=1e-3, permute=True)
    assert auto.n_params <= min(tk.decompose(x, "auto", eps=1e-3).n_params, 6 * 2 + 5 * 4 + 6 * 4 + 5 * 2)


def test_formats_without_an_order_say_so():
    x = array((5, 6, 7), "smooth", 0)
    fit = tk.decompose(x, "cp", rank=2, permute=True)
    assert "changes nothing for cp" in fit.why
    assert fit.n_params == tk.decompose(x, "cp", rank=2).n_params


def test_kinds_dtypes_and_gradients():
    x = np.arange(210.0, dtype=np.float32).reshape(5, 6, 7)
    fit = tk.decompose(x, "tt", eps=1e-2, permute=True)
    assert fit.tensor.dtype == torch.float32
    half = tk.decompose(torch.from_numpy(x).to(torch.bfloat16), "tt", eps=1e-2, permute=True)
    assert half.tensor.dtype == torch.bfloat16
    zero = tk.decompose(np.zeros((3, 4)), "tt", eps=0.0, permute=True)
    assert zero.rel_error == 0.0
    leaf = torch.from_numpy(x).double().requires_grad_()
    tk.decompose(leaf, "tt", eps=1e-2, permute=True).tensor.to_dense().square().sum().backward()
    assert leaf.grad is not None
    assert bool(torch.isfinite(leaf.grad).all())


def test_the_same_answer_twice():
    x = array((6, 5, 4, 6), "planted", 2)
    one, two = (tk.decompose(x, "tt", eps=0.01, permute=True, rng=3) for _ in range(2))
    assert one.why == two.why
    assert all(torch.equal(a, b) for a, b in zip(one.tensor.tensors(), two.tensor.tensors(), strict=True))


def test_ranks_by_cut_need_an_order():
    with pytest.raises(tk.OptionError, match="known only when the order is chosen"):
        tk.decompose(np.ones((3, 4, 5)), "tt", rank=(2, 2), permute=True)
    with pytest.raises(tk.OptionError, match="permute=True needs a dense array"):
        tk.decompose(lambda i: i.sum(-1) * 1.0, "tt", shape=(4, 5, 6), eps=1e-3, permute=True)


@pytest.mark.parametrize("name", FORMATS)
def test_many_modes_move_in_groups(name):
    x = random_format("tt", (2,) * 16, 2, rng=0).to_dense()
    x = x.reshape(16, 16, 16, 16).permute(2, 0, 3, 1).reshape((2,) * 16)
    fit = tk.decompose(x, name, eps=1e-6, permute=True)
    assert fit.n_params <= tk.decompose(x, name, eps=1e-6).n_params
    assert fit.tensor.shape == (2,) * 16
    assert true_error(x, fit.tensor.to_dense()) <= 1e-6
    if name == "tt":
        assert fit.n_params <= 2 * 2 * 2 + 14 * 8


# --- the parts --------------------------------------------------------------------------------------------------------


def spectra_of(x: torch.Tensor, atoms: Atoms) -> CutSpectra:
    return CutSpectra(atoms, x, None, 1e-12)


def test_every_cut_has_the_spectrum_of_its_unfolding():
    x = array((4, 6, 5), "planted", 0)
    atoms = Atoms((4, 6, 5), ((4,), (3, 2), (5,)))
    u = torch.linalg.svd(x.movedim(1, 0).reshape(6, -1), full_matrices=False)[0]
    core = torch.einsum("aj,iak->ijk", u, x)
    compressed = CutSpectra(atoms, core, [torch.eye(4).double(), u, torch.eye(5).double()], 1e-12)
    split = x.reshape(4, 3, 2, 5)
    for mask in range(1, 15):
        rows = [k for k in range(4) if mask >> k & 1]
        columns = [k for k in range(4) if k not in rows]
        matrix = split.permute(*rows, *columns).reshape(int(np.prod([split.shape[k] for k in rows])), -1)
        true = tails(torch.linalg.svdvals(matrix).square())
        for found in (spectra_of(x, atoms).tails(mask), compressed.tails(mask)):
            assert torch.allclose(torch.from_numpy(found), true[: len(found)], atol=1e-9 * float(true[0]))


def chain_cost(ranks: np.ndarray, sizes: list[int], blocks: tuple[int, ...]) -> float:
    total, done = 0.0, 0
    for block in blocks:
        width = np.prod([n for k, n in enumerate(sizes) if block >> k & 1])
        total += ranks[done] * width * ranks[done | block]
        done |= block
    return total


def ordered_partitions(mask: int):
    if mask == 0:
        yield ()
        return
    block = mask
    while block:
        for rest in ordered_partitions(mask ^ block):
            yield (block, *rest)
        block = (block - 1) & mask


def test_chains_are_the_cheapest_of_all():
    rng = np.random.default_rng(0)
    sizes = [3, 4, 2, 5]
    ranks = rng.integers(1, 9, (2, 16)).astype(float)
    ranks[:, [0, 15]] = 1.0
    found = cheap_chains(ranks, sizes)
    for level in range(2):
        least = min(chain_cost(ranks[level], sizes, blocks) for blocks in ordered_partitions(15))
        mine = found[level * 4 : level * 4 + 4]
        assert min(s.score for s in mine) == least
        for s in mine:
            assert s.score == chain_cost(ranks[level], sizes, s.blocks)
            assert s.score == s.cost(tuple(int(ranks[level, cut]) for cut in s.cuts))


def test_orders_trees_and_groups_cost_what_they_say():
    rng = np.random.default_rng(1)
    sizes = [3, 4, 2, 5]
    ranks = rng.integers(1, 5, (1, 16)).astype(float)
    ranks[:, [0, 15]] = 1.0
    for s in [*cheap_trees(ranks, sizes), *cheap_groups(ranks, sizes)]:
        assert s.score == s.cost(tuple(int(ranks[0, cut]) for cut in s.cuts))
        assert sum(s.blocks) == 15
    lost = rng.random(16)
    lost[[0, 15]] = 0.0
    (order,) = best_orders(lost, 4)
    least = min(
        sum(lost[sum(1 << k for k in chosen[:j])] for j in range(1, 5)) for chosen in itertools.permutations(range(4))
    )
    assert order.score == pytest.approx(least)


def test_plans_are_read_easily():
    atoms = Atoms((6, 4, 5), ((3, 2), (4,), (5,)))
    assert str(atoms.plan((0b0011, 0b0100, 0b1000))) == "(6, 4, 5)"
    assert str(atoms.plan((0b1000, 0b0011, 0b0100))) == "(6, 4, 5) -> permute (2, 0, 1)"
    assert atoms.plan((0b0101, 0b1010)).out_shape == (12, 10)
    assert grouped_modes((2,) * 10).sizes == (4, 4, 2, 2, 2, 2, 2, 2)
    assert split_modes((7, 64, 1), (7, 4, 1)).factors[0] == (7,)
    assert split_modes((7, 64, 1), (7, 4, 1)).factors[2] == ()
