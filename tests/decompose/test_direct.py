"""The direct methods: quasi-optimal by ranks, eps as one budget, no copy of the array, optimal closed forms."""

from __future__ import annotations

from itertools import pairwise
from math import prod, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import tnkit as tk
from tests.properties.data import DTYPES, array, kinds, shapes, true_error
from tnkit.decompose.core_shape import cheapest_core
from tnkit.formats import as_spec, random_format, tree_leaves, tree_nodes
from tnkit.rng import generator, normal


def tail2(x: torch.Tensor, modes: tuple[int, ...], rank: int) -> float:
    """The energy beyond a rank of one unfolding."""
    others = [k for k in range(x.ndim) if k not in modes]
    matrix = x.permute(*modes, *others).reshape(prod(x.shape[k] for k in modes), -1)
    return float(torch.linalg.svdvals(matrix)[rank:].square().sum())


def cuts(name: str, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The modes on one side of each bond."""
    d = len(shape)
    if name == "tt":
        return [tuple(range(k)) for k in range(1, d)]
    if name == "tucker":
        return [(k,) for k in range(d)]
    tree = as_spec("ht").layout(shape).static["tree"]
    return [tree_leaves(node) for node in tree_nodes(tree)][1:]


@pytest.mark.parametrize("name", ["tt", "tucker", "ht"])
@settings(max_examples=15)
@given(shape=shapes(least=2), kind=kinds(), rank=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_ranks_are_quasi_optimal(name, shape, kind, rank, seed):
    x = array(shape, kind, seed)
    fit = tk.decompose(x, name, rank=rank, method={"tucker": "st_hosvd"}.get(name, "auto"))
    tails = [tail2(x, cut, r) for cut, r in zip(cuts(name, shape), fit.ranks, strict=True)]
    best = sqrt(max(tails, default=0.0))  # no tensor of these ranks is nearer
    true = true_error(x, fit.tensor.to_dense()) * float(x.norm())
    noise = 1e-13 * float(x.norm())
    assert true >= best * (1 - 1e-6) - noise
    assert true <= sqrt(sum(tails)) * (1 + 1e-6) + noise
    assert fit.rel_error == pytest.approx(true / float(x.norm()), rel=0.01, abs=1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("name", "rank"), [("tt", (3, 4, 2)), ("tucker", (3, 2, 4, 2)), ("ht", (4, 3, 2, 4, 2, 3)), ("ttm", (3,))]
)
def test_planted_ranks_are_found(name, rank, dtype):
    x = random_format(name, (7, 6, 8, 5), rank, dtype=dtype, rng=3).to_dense()
    x = x + 1e-5 * x.norm() / sqrt(x.numel()) * normal(x.shape, x, generator(1))
    assert tk.decompose(x, name, eps=1e-3).ranks == rank


def even_split(x: torch.Tensor, eps: float) -> int:
    """The entries that TT-SVD takes when each cut gets the same share of eps."""
    limit = eps**2 * float(x.norm()) ** 2 / (x.ndim - 1)
    left, ranks = x.reshape(1, -1), [1]
    for n in x.shape[:-1]:
        _, s, vh = torch.linalg.svd(left.reshape(ranks[-1] * n, -1), full_matrices=False)
        energy = s.square().flip(0).cumsum(0).flip(0)
        ranks.append(max(1, int((energy > limit).sum())))
        left = s[: ranks[-1], None] * vh[: ranks[-1]]
    return sum(a * n * b for (a, b), n in zip(pairwise([*ranks, 1]), x.shape, strict=True))


@pytest.mark.parametrize(("shape", "eps"), [((12, 12, 12, 12), 0.1), ((4, 4, 4, 4, 4, 4), 0.01), ((9, 30, 20), 0.05)])
def test_eps_is_one_budget(shape, eps):
    grids = torch.meshgrid(*(torch.linspace(0, 1, n, dtype=torch.float64) for n in shape), indexing="ij")
    x = torch.exp(-3 * (sum(g * (k + 1) for k, g in enumerate(grids)) - 2).abs()) + 0.02 * array(shape, "noise", 0)
    fit = tk.decompose(x, "tt", eps=eps)
    assert true_error(x, fit.tensor.to_dense()) <= eps
    assert fit.n_params <= even_split(x, eps)
    for k, r in enumerate(fit.ranks):  # the slack is spent: no single rank can fall
        if r > 1:
            fewer = tuple(q - (j == k) for j, q in enumerate(fit.ranks))
            assert tk.decompose(x, "tt", rank=fewer).rel_error > eps * 0.98


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
@pytest.mark.parametrize("name", ["tt", "tucker", "ht"])
def test_a_noise_floor_just_below_eps(name, dtype):
    shape = (30, 28, 26, 20)  # large enough for sketches and rough ranks
    x = random_format(name, shape, 4, dtype=dtype, rng=0).to_dense()
    noise = normal(shape, x, generator(2))
    x = x / x.norm() + 1e-2 * noise / noise.norm()
    fit = tk.decompose(x, name, eps=1.2e-2)
    assert max(fit.ranks) == 4
    assert true_error(x, fit.tensor.to_dense()) <= 1.2e-2
    assert fit.rel_error == pytest.approx(true_error(x, fit.tensor.to_dense()), rel=0.01)
    tight = tk.decompose(x, name, eps=0.6e-2, rank=6)
    assert tight.status.name == "eps_not_reached"
    assert max(tight.ranks) <= 6
    assert tight.rel_error == pytest.approx(true_error(x, tight.tensor.to_dense()), rel=0.01)


@pytest.mark.parametrize("name", ["tt", "tucker", "ht"])
def test_a_budget_on_a_large_array(name):
    shape = (30, 28, 26, 20)
    x = random_format(name, shape, 6, rng=0).to_dense()
    noise = normal(shape, x, generator(2))
    x = x / x.norm() + 1e-3 * noise / noise.norm()
    for budget in (800, 3000, 30_000):
        fit = tk.decompose(x, name, budget=budget)
        assert fit.n_params <= budget
        assert fit.n_params >= 0.9 * budget or fit.rel_error < 1e-12
        assert fit.rel_error == pytest.approx(true_error(x, fit.tensor.to_dense()), rel=0.01)


class BigResults(TorchDispatchMode):
    """Counts results as large as an array that do not share its memory."""

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()
        self.pointer, self.size, self.made = x.untyped_storage().data_ptr(), x.numel() // 2, list[str]()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        found = result if isinstance(result, (tuple, list)) else (result,)
        for t in found:
            big = isinstance(t, torch.Tensor) and t.numel() >= self.size
            if big and t.untyped_storage().data_ptr() != self.pointer:
                self.made.append(f"{function} {tuple(t.shape)}")
        return result


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("name", "method"), [("tt", "tt_svd"), ("tucker", "st_hosvd"), ("ht", "ht_svd")])
def test_a_large_array_is_not_copied_or_laid_out_anew(name, method, turned):
    x = random_format("tt", (40, 24, 24, 20), 3, rng=0).to_dense() + 1e-3 * array((40, 24, 24, 20), "noise", 0)
    x = x.contiguous().permute(3, 2, 1, 0) if turned else x.contiguous()
    before = x.clone()
    with BigResults(x) as watch:
        fit = tk.decompose(x, name, rank=3, method=method)
    assert watch.made == []
    assert torch.equal(x, before)
    assert fit.rel_error == pytest.approx(true_error(x, fit.tensor.to_dense()), rel=0.01)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_factors_are_orthonormal(dtype):
    x = array((6, 7, 8), "noise", 0, dtype)
    noise = 100 * torch.finfo(dtype).eps
    tucker = tk.decompose(x, "tucker", rank=3, method="st_hosvd").tensor
    tree = tk.decompose(x, "ht", rank=3).tensor
    swept = tk.decompose(x, "tucker", rank=3, method="hooi").tensor
    for factor in (*tucker.factors, *swept.factors, *(node.flatten(0, -2) for node in tree.nodes[1:])):
        off = factor.mH @ factor - torch.eye(factor.shape[1], dtype=dtype)
        assert float(off.abs().max()) < noise


@settings(max_examples=15)
@given(shape=shapes(least=2, most=4), kind=kinds(), rank=st.integers(1, 3), seed=st.integers(0, 10**6))
def test_hooi_is_never_worse_than_its_start(shape, kind, rank, seed):
    x = array(shape, kind, seed)
    start = tk.decompose(x, "tucker", rank=rank, method="st_hosvd").rel_error
    fit = tk.decompose(x, "tucker", rank=rank, method="hooi")
    assert fit.rel_error <= start * (1 + 1e-9) + 1e-13
    assert fit.tensor.core.shape == tuple(fit.ranks)


def test_hooi_lowers_ranks_while_eps_holds():
    x = array((12, 13, 14), "planted", 0) + 0.5 * array((12, 13, 14), "noise", 1)
    for eps in (0.3, 0.6):
        start, fit = (tk.decompose(x, "tucker", eps=eps, method=m) for m in ("st_hosvd", "hooi"))
        assert true_error(x, fit.tensor.to_dense()) <= eps
        assert fit.n_params <= start.n_params


@settings(max_examples=20)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 10**6),
)
def test_the_best_of_all_core_shapes(shape, share, seed):
    core = array(shape, "noise", seed)
    total = float(core.norm()) ** 2

    def outside(ranks):
        return total - float(core[tuple(slice(0, r) for r in ranks)].norm()) ** 2

    def cost(ranks):
        return prod(ranks) + sum(n * r for n, r in zip(shape, ranks, strict=True))

    every = [tuple(int(i) + 1 for i in index) for index in torch.ones(shape).nonzero()]
    found = cheapest_core(core, shape, share * total, None, shape)
    assert outside(found) <= share * total + 1e-9 * total
    if share > 1e-9:
        assert cost(found) <= min(cost(r) for r in every if outside(r) <= share * total * (1 - 1e-9))
    limit = max(cost((1,) * len(shape)), int(share * cost(shape)))
    found = cheapest_core(core, shape, None, limit, shape)
    assert cost(found) <= limit
    assert outside(found) <= min(outside(r) for r in every if cost(r) <= limit) + 1e-9 * total


def test_closed_forms_are_the_best():
    x = array((12, 10), "noise", 0)
    best = sqrt(tail2(x, (0,), 3)) / float(x.norm())
    assert tk.decompose(x, "lowrank", rank=3).rel_error == pytest.approx(best, rel=1e-9)

    blocks = x.reshape(4, 3, 5, 2).permute(1, 2, 0, 3).reshape(15, 4, 2)  # rows (l, j), columns (k, i)
    beyond = torch.linalg.svdvals(blocks)[:, 1:].square().sum()
    fit = tk.decompose(x, tk.BlockTTSpec(blocks=(3, 5)), rank=1)
    assert fit.rel_error == pytest.approx(sqrt(float(beyond)) / float(x.norm()), rel=1e-9)
    assert true_error(x, fit.tensor.to_dense()) == pytest.approx(fit.rel_error, rel=1e-9)

    kron = x.reshape(3, 4, 5, 2)
    best = sqrt(tail2(kron, (0, 2), 2)) / float(x.norm())
    fit = tk.decompose(x, tk.KronSpec(left=(3, 5)), rank=2)
    assert fit.rel_error == pytest.approx(best, rel=1e-9)
    assert true_error(x, fit.tensor.to_dense()) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 4), (5, 6, 3), (4, 5, 4, 3), (3, 4, 2, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_tubal_is_the_best_of_its_rank_and_real_for_real_arrays(shape, dtype):
    x = array(shape, "noise", 0, dtype)
    fit = tk.decompose(x, "tubal", rank=2)
    assert fit.tensor.dtype == dtype
    modes = tuple(range(2, len(shape)))
    slices = torch.fft.fftn(x, dim=modes) if modes else x
    values = torch.linalg.svdvals(slices.reshape(*shape[:2], -1).movedim(-1, 0))
    best = sqrt(float(values[:, 2:].square().sum()) / prod(shape[2:])) / float(x.norm())
    assert fit.rel_error == pytest.approx(best, rel=1e-9)
    assert true_error(x, fit.tensor.to_dense()) == pytest.approx(best, rel=1e-9)


@settings(max_examples=8)
@given(shape=shapes(least=2, most=4), kind=kinds(), eps=st.sampled_from([1e-3, 0.1, 0.4]), seed=st.integers(0, 10**6))
def test_a_direct_ring_is_no_larger_than_the_train(shape, kind, eps, seed):
    x = array(shape, kind, seed)
    ring, train = tk.decompose(x, "tr", eps=eps, method="ring_svd"), tk.decompose(x, "tt", eps=eps)
    assert true_error(x, ring.tensor.to_dense()) <= eps
    assert ring.n_params <= train.n_params


def test_a_ring_is_cut_where_it_is_smallest():
    x = random_format("tr", (8, 8, 8, 8), (4, 1, 4, 4), rng=0).to_dense()
    fit = tk.decompose(x, "tr", rank=(4, 1, 4, 4), method="ring_svd")
    assert fit.rel_error < 1e-10


@pytest.mark.parametrize("order", ["interleaved", "split"])
def test_tt_matrices_of_both_orders(order):
    spec = tk.TTMatrixSpec(rows=(3, 4), columns=(5, 2), order=order)
    x = random_format(spec, (12, 10), 2, rng=0).to_dense()
    fit = tk.decompose(x, spec, eps=1e-9)
    assert max(fit.ranks) <= 2
    assert true_error(x, fit.tensor.to_dense()) < 1e-9


@pytest.mark.parametrize("decay", [0.3, 1.2])
def test_sketches_cost_less_than_a_hundredth_of_the_error(decay):
    shape, rank = (30, 30, 30, 30), 15
    x = array(shape, "noise", 0)
    for k, n in enumerate(shape):
        weights = torch.arange(1, n + 1, dtype=x.dtype) ** -decay
        q = torch.linalg.qr(array((n, n), "noise", k + 1)).Q
        x = torch.tensordot(q * weights, x, dims=([1], [0])).movedim(0, -1)
    left, r, lost = x.reshape(1, -1), 1, 0.0
    for n in shape[:-1]:
        _, s, vh = torch.linalg.svd(left.reshape(r * n, -1), full_matrices=False)
        r, lost = rank, lost + float(s[rank:].square().sum())
        left = s[:rank, None] * vh[:rank]
    plain = sqrt(lost) / float(x.norm())
    assert tk.decompose(x, "tt", rank=rank).rel_error <= 1.01 * plain
