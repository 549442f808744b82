"""ALS, QuasiNewton and TreeSVD: any topology."""

import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnkit as tk
from tnkit.decompose import ALS, QuasiNewton, TreeSVD, error_floor, relative_error
from tnkit.decompose.tree_svd import is_tree, spanning_ranks, tree_tensors
from tnkit.errors import OptionError
from tnkit.formats import as_spec, random_format
from tnkit.rng import generator

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
LOOPS = [
    ("iab,jac,kbc->ijk", (5, 6, 7)),
    ("ab,bic,cja,kb->ijk", (5, 6, 7)),
    ("ia,iaj,jb,kb->ijk", (4, 5, 6)),
    ("tr,tir,tjr,tkr->ijk", (4, 5, 6)),
    ("iab,jabk->ijk", (4, 5, 6)),
]
TREES = [
    ("ia,ajb,bkc,cl->ijkl", (3, 4, 5, 4)),
    ("abc,ia,jb,kc->ijk", (4, 5, 6)),
    ("iab,ajc,bk,cl->ijkl", (3, 4, 5, 6)),
    ("abc,ia,bj,ckd,dl->ijkl", (3, 4, 5, 3)),
    ("ia,ab,bj->ij", (5, 4)),
    ("i->i", (4,)),
]


@pytest.mark.parametrize(("equation", "shape"), LOOPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_planted_networks_are_found(equation, shape, dtype):
    x = random_format(equation, shape, 2, dtype=dtype, rng=4).to_dense()
    fit = tk.decompose(x, equation, rank=2, method="als")
    single = dtype in (torch.float32, torch.complex64)
    assert relative_error(x, fit.tensor) < (1e-4 if single else 1e-9)
    assert fit.tensor.dtype == dtype


@pytest.mark.parametrize("format", ["tt", "tucker", "cp", "ht", "tubal", "btt", "kron", "lowrank"])
def test_formats_are_fitted_as_well(format):
    shape = (6, 6) if format in ("btt", "kron", "lowrank") else (5, 6, 4)
    x = random_format(format, shape, 2, rng=1).to_dense()
    assert tk.decompose(x, format, rank=2, method="als").rel_error < 1e-9


@given(
    st.sampled_from(LOOPS + TREES),
    st.sampled_from(DTYPES),
    st.sampled_from([0.0, 1e-3, 0.1, 0.5, 1.0]),
    st.integers(0, 1000),
)
@settings(max_examples=15)
def test_eps_is_kept_or_the_status_says_so(case, dtype, eps, seed):
    equation, shape = case
    x = torch.randn(shape, dtype=dtype, generator=generator(seed))
    fit = tk.decompose(x, equation, eps=eps, method="als")
    true = relative_error(x, fit.tensor)
    assert fit.rel_error == pytest.approx(true, rel=1e-2, abs=error_floor(dtype, x.ndim))
    if fit.status.ok:
        assert true <= eps * (1 + 1e-6)
    elif fit.status.name == "floor":
        assert true <= error_floor(dtype, x.ndim)
    else:
        assert fit.status.name == "eps_not_reached"
        assert is_tree(as_spec(equation).layout(shape)) is False


@given(st.sampled_from(LOOPS), st.integers(0, 1000), st.sampled_from([2.0**-27, 1e-8, 3.0, 4.0, 1e9, 2.0**30]))
@settings(max_examples=8)
def test_it_is_reproducible_and_scales(case, seed, factor):
    equation, shape = case
    x = torch.randn(shape, dtype=torch.float64, generator=generator(seed))
    method = ALS(max_steps=20, starts=2)
    first, again = (tk.decompose(x, equation, rank=2, method=method, rng=7) for _ in range(2))
    torch.testing.assert_close(first.tensor.to_dense(), again.tensor.to_dense(), rtol=1e-9, atol=1e-9)
    scaled = tk.decompose(x * factor, equation, rank=2, method=method, rng=7)
    assert scaled.ranks == first.ranks
    # a power of two changes no rounding, so the steps are the same; another factor may lead to another minimum
    exact = math.frexp(factor)[0] == 0.5
    assert scaled.rel_error == pytest.approx(first.rel_error, rel=1e-6 if exact else 0.2)


def test_eps_and_limits_together():
    x = torch.randn(5, 6, 7, dtype=torch.float64, generator=generator(0))
    equation = "iab,jac,kbc->ijk"
    fit = tk.decompose(x, equation, eps=1e-3, rank=2, method="als")
    assert fit.status.name == "eps_not_reached"
    assert max(fit.ranks) <= 2
    fit = tk.decompose(x, equation, eps=1e-3, budget=60, method="als")
    assert fit.status.name == "eps_not_reached"
    assert fit.n_params <= 60
    loose = tk.decompose(x, equation, eps=0.9, budget=200, method="als")
    assert loose.status.ok
    assert loose.rel_error <= 0.9


def test_a_budget_is_kept_and_used():
    x = torch.randn(6, 7, 8, dtype=torch.float64, generator=generator(0))
    layout = as_spec("iab,jac,kbc->ijk").layout(x.shape)
    for budget in (25, 60, 150):
        fit = tk.decompose(x, "iab,jac,kbc->ijk", budget=budget, method=ALS(max_steps=10, starts=1))
        assert fit.n_params <= budget
        grown = [[r + (k == b) for k, r in enumerate(fit.ranks)] for b in range(3) if fit.ranks[b] < layout.caps[b]]
        assert all(layout.n_params(ranks) > budget for ranks in grown)


def test_a_time_limit_and_ctrl_c_give_the_best_so_far():
    x = torch.randn(12, 12, 12, 12, dtype=torch.float64, generator=generator(0))
    begun = time.perf_counter()
    fit = tk.decompose(x, "tr", rank=5, method=ALS(max_steps=100_000, tol=0.0, newton=False), time_limit_s=0.5)
    assert fit.status.name == "time_limit"
    assert time.perf_counter() - begun < 10
    seen = []

    def stop(info):
        seen.append(info.error)
        if len(seen) == 4:
            raise KeyboardInterrupt

    fit = tk.decompose(x, "tr", rank=3, method=ALS(max_steps=100, newton=False), progress=stop)
    assert fit.status.name == "interrupted"
    assert len(seen) == 4
    assert fit.rel_error <= min(seen) * (1 + 1e-6)


@pytest.mark.parametrize(("equation", "shape"), TREES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_trees_are_exact_at_their_largest_ranks_and_keep_eps(equation, shape, dtype):
    x = torch.randn(shape, dtype=dtype, generator=generator(3))
    layout = as_spec(equation).layout(shape)
    single = dtype in (torch.float32, torch.complex64)
    exact = tk.decompose(x, equation, rank=layout.caps, method="tree_svd")
    assert relative_error(x, exact.tensor) < (1e-5 if single else 1e-10)
    for eps in (0.05, 0.3, 0.7):
        fit = tk.decompose(x, equation, eps=eps, method="tree_svd")
        assert fit.status.ok
        assert relative_error(x, fit.tensor) <= eps
    if layout.bonds:
        size = max(layout.n_params([1] * len(layout.bonds)), layout.n_params(layout.caps) // 2)
        sized = tk.decompose(x, equation, budget=size * (2 if dtype.is_complex else 1), method="tree_svd")
        assert sum(t.numel() for t in sized.tensor.tensors()) <= size


@pytest.mark.parametrize(("equation", "shape"), TREES[:4])
def test_tree_svd_is_quasi_optimal_and_als_improves_it(equation, shape):
    x = torch.randn(shape, dtype=torch.float64, generator=generator(5))
    layout = as_spec(equation).layout(shape)
    direct = tk.decompose(x, equation, rank=2, method="tree_svd")
    better = tk.decompose(x, equation, rank=2, method="als")
    assert better.rel_error <= direct.rel_error * (1 + 1e-9)
    assert direct.rel_error <= better.rel_error * len(layout.bonds) ** 0.5 * (1 + 1e-6)


def test_a_ring_holds_a_train():
    layout = as_spec("tr").layout((3, 4, 5))
    ranks = spanning_ranks(layout, (3, 5, 5))
    assert ranks is not None
    assert ranks.count(1) == 1
    x = torch.randn(3, 4, 5, dtype=torch.float64, generator=generator(0))
    tensors = tree_tensors(x, layout, ranks, generator(0), float(x.norm()))
    assert relative_error(x, layout.build(tensors)) < 1e-12
    assert tree_tensors(x, layout, (2, 2, 2), generator(0), float(x.norm())) is None


def test_tree_svd_refuses_a_loop():
    with pytest.raises(OptionError, match="does not fit"):
        tk.decompose(torch.ones(3, 4, 5), "iab,jac,kbc->ijk", eps=0.1, method="tree_svd")
    assert not TreeSVD().suits(as_spec("tr").layout((3, 4, 5)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize(("equation", "shape"), [LOOPS[2], LOOPS[3]])
def test_quasi_newton_finds_planted_networks(equation, shape, dtype):
    x = random_format(equation, shape, 2, dtype=dtype, rng=4).to_dense()
    fit = tk.decompose(x, equation, rank=2, method=QuasiNewton(max_steps=40))
    assert relative_error(x, fit.tensor) < 1e-3
    again = tk.decompose(x, equation, rank=2, method=QuasiNewton(max_steps=40))
    assert again.rel_error == pytest.approx(fit.rel_error, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ALS(start="none"),
        lambda: ALS(max_steps=0),
        lambda: QuasiNewton(start="svd"),
        lambda: QuasiNewton(memory=0),
        lambda: tk.decompose(torch.ones(3, 4), "tt", rank=1, method="cp_als"),
    ],
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(OptionError):
        wrong()
