"""The fewest numbers at an error: ranks traded by true errors, fits below the truncation error, smaller cores."""

from __future__ import annotations

from itertools import product
from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnkit as tk
from tests.properties.data import DTYPES, array, kinds, shapes, true_error
from tnkit.formats import random_format
from tnkit.formats.rank_plan import RankPlan
from tnkit.formats.rank_trading import conditional_spectra, nearby_ranks, traded_ranks
from tnkit.formats.tree_fit import fit_small
from tnkit.formats.trees import tree_of


def even_split(x: torch.Tensor, eps: float) -> int:
    """Entries of the TT-SVD in which every cut may lose eps/√(d−1)."""
    share, rest, total = eps * float(x.norm()) / sqrt(max(x.ndim - 1, 1)), x.reshape(1, -1), 0
    for n in x.shape[:-1]:
        left = rest.shape[0]
        _, s, v = torch.linalg.svd(rest.reshape(left * n, -1), full_matrices=False)
        tails = s.square().flip(0).cumsum(0).flip(0)
        rank = max(1, int((tails > share**2).sum()))
        total += left * n * rank
        rest = s[:rank, None] * v[:rank]
    return total + rest.numel()


@settings(max_examples=40)
@given(
    shape=shapes(least=2, most=6),
    kind=kinds(),
    eps=st.sampled_from([0.3, 0.1, 0.03, 1e-3]),
    seed=st.integers(0, 10**6),
)
def test_a_train_takes_no_more_than_the_even_split(shape, kind, eps, seed):
    x = array(shape, kind, seed)
    fit = tk.decompose(x, "tt", eps=eps)
    assert true_error(x, fit.tensor.to_dense()) <= eps * (1 + 1e-9)
    assert fit.n_params <= even_split(x, eps)


def decaying(shape: tuple[int, ...], noise: float, seed: int = 0) -> torch.Tensor:
    """Falling singular values in every mode, and white noise, whose cuts overlap."""
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=gen, dtype=torch.float64)
    for k, n in enumerate(shape):
        q = torch.linalg.qr(torch.randn(n, n, generator=gen, dtype=torch.float64)).Q
        x = torch.movedim(torch.tensordot(x, q / torch.arange(1.0, n + 1), dims=([k], [1])), -1, k)
    white = torch.randn(shape, generator=gen, dtype=torch.float64)
    return x / x.norm() + noise * white / white.norm()


@pytest.mark.parametrize("eps", [0.1, 0.05])
def test_a_train_of_three_modes_is_as_small_as_the_best_corner(eps):
    """For three modes the errors of all pairs of ranks are known from one cumulative sum."""
    x = decaying((24, 20, 22), 0.08 * eps / 0.1)
    u = torch.linalg.svd(x.reshape(24, -1), full_matrices=False)[0]
    v = torch.linalg.svd(x.reshape(-1, 22), full_matrices=False)[2]
    core = torch.einsum("ia,ijk,ck->ajc", u, x, v).square().sum(1).cumsum(0).cumsum(1)
    lost = (x.square().sum() - core) / x.square().sum()
    sizes = [
        24 * a + a * 20 * b + 22 * b
        for a, b in product(range(1, 25), range(1, 23))
        if float(lost[a - 1, b - 1]) <= eps**2
    ]
    fit = tk.decompose(x, "tt", eps=eps)
    assert true_error(x, fit.tensor.to_dense()) <= eps
    assert fit.n_params <= min(sizes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["tt", "ht"])
def test_a_fit_lowers_the_error_and_knows_it(name, dtype):
    large = random_format(name, (6, 5, 7, 6), 8, dtype=dtype, rng=1)
    tree = tree_of(large.topology())
    nodes = tree.orthogonalize(large.tensors(), tree.first_leaf(0))
    dense = large.to_dense()
    norm2 = float(torch.linalg.vector_norm(dense)) ** 2
    small, lost2 = tree.truncate(nodes, dict.fromkeys(large.bonds(), 3))
    fitted, less2 = fit_small(tree, nodes, small, 0, norm2=norm2, sweeps=3)
    assert less2 < lost2
    value = large.with_tensors(fitted).to_dense()
    assert true_error(dense, value) ** 2 == pytest.approx(less2 / norm2, rel=1e-3)


def test_errors_along_one_rank_are_true():
    tt = random_format("tt", (6, 7, 8, 6), 6, rng=0)
    tree = tree_of(tt.topology())
    nodes = tree.orthogonalize(tt.tensors(), tree.first_leaf(0))
    bonds, ranks = ("r1", "r2", "r3"), (3, 4, 3)
    spectra = conditional_spectra(tree, nodes, bonds, [(0,), (1,), (2,)], ranks, 0)
    others = tree.truncate(nodes, {"r1": 3, "r3": 3})[1]
    for rank in (2, 3, 4, 5):
        whole = tree.truncate(nodes, {"r1": 3, "r2": rank, "r3": 3})[1]
        assert whole == pytest.approx(others + float(spectra[1][rank:].sum()), rel=0.1)


def test_ranks_are_traded_for_a_smaller_size():
    spectra = [torch.tensor([4.0, 1.0, 0.5, 0.1]), torch.tensor([4.0, 1.0, 0.01, 0.01])]

    def cost(ranks: tuple[int, ...]) -> int:
        return 10 * ranks[0] + ranks[0] * ranks[1] + 10 * ranks[1]

    now2 = float(spectra[0][2:].sum() + spectra[1][3:].sum())
    assert traded_ranks(spectra, (2, 3), now2, 0.65, cost, (4, 4)) == (2, 2)
    near = nearby_ranks(spectra, (2, 3), now2, 0.65, cost, (4, 4))
    assert near[0] == (2, 2)
    assert [cost(r) for r in near] == sorted(cost(r) for r in near)
    assert traded_ranks(spectra, (2, 3), now2, -10.0, cost, (4, 4)) == (2, 3)


@pytest.mark.parametrize("name", ["tt", "ht"])
def test_thorough_plans_are_no_larger(name):
    x = decaying((10, 9, 8, 7), 0.1)
    layout = tk.decompose(x, name, eps=1e-12).tensor
    sizes = []
    for thorough in (False, True):
        plan = RankPlan(tree_of(layout.topology()), layout.tensors(), layout.bonds(), thorough=thorough)
        found = plan.best(0.01 * float(x.norm()) ** 2)
        assert true_error(x, layout.with_tensors(found.tensors).to_dense()) <= 0.1 * (1 + 1e-9)
        sizes.append(plan.cost(found.ranks))
    assert sizes[1] <= sizes[0]


@settings(max_examples=15)
@given(shape=shapes(least=2, most=5), kind=kinds(), eps=st.sampled_from([0.3, 0.1, 0.01]), seed=st.integers(0, 10**6))
def test_sweeps_make_no_core_larger(shape, kind, eps, seed):
    x = array(shape, kind, seed)
    plain, swept = (tk.decompose(x, "tucker", eps=eps, method=m) for m in ("st_hosvd", "auto"))
    assert swept.method == "hooi"
    assert swept.status.ok
    assert true_error(x, swept.tensor.to_dense()) <= eps * (1 + 1e-9)
    assert swept.n_params <= plain.n_params


@pytest.mark.parametrize("name", ["tt", "tucker", "ht"])
def test_the_same_answer_twice(name):
    x = decaying((9, 10, 11, 8), 0.05)
    one, two = (tk.decompose(x, name, eps=0.1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.tensor.tensors(), two.tensor.tensors(), strict=True))
