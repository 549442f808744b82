"""CPALS: planted ranks, closed forms, starts, compression, eps."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import tnkit as tk
from tnkit.decompose import error_floor, relative_error
from tnkit.decompose.cp_als import CPALS
from tnkit.decompose.cp_starts import eigen_start, random_start
from tnkit.decompose.mttkrp import CPLeastSquares
from tnkit.errors import OptionError
from tnkit.formats import CPSpec, random_format
from tnkit.network import contract
from tnkit.rng import generator

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "rank"),
    [((8, 9, 10), 4), ((10, 10, 10), 6), ((5, 5, 5), 6), ((4, 5, 6, 3), 5), ((3,) * 5, 4), ((2,) * 7, 3)],
)
def test_planted_ranks_are_found(shape, rank, dtype):
    single = dtype in (torch.float32, torch.complex64)
    for seed in range(2):
        x = random_format("cp", shape, rank, dtype=dtype, rng=seed).to_dense()
        assert relative_error(x, tk.decompose(x, "cp", rank=rank, method="cp_als").tensor) < (1e-4 if single else 1e-8)
        found = tk.decompose(x, "cp", eps=1e-3, method="cp_als")
        assert found.ranks <= (rank,)
        assert found.status.ok


def test_the_planted_factors_themselves_are_found():
    planted = random_format("cp", (8, 9, 10), 4, rng=0)
    found = tk.decompose(planted.to_dense(), "cp", rank=4, method="cp_als").tensor
    for a, b in zip(planted.factors, found.factors, strict=True):
        cosines = (a / a.norm(dim=0)).mT @ b
        assert torch.allclose(cosines.abs().amax(1), torch.ones(4, dtype=a.dtype), atol=1e-6)
    assert torch.equal(found.weights, found.weights.sort(descending=True).values)
    for factor in found.factors:
        torch.testing.assert_close(factor.norm(dim=0), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize(
    "shape", [(4, 5, 6), (3, 1, 4, 2), (2, 3, 2, 2), (5, 6), (1, 5, 1, 4), (7,), (1, 1), (5, 1, 1)]
)
def test_the_largest_rank_is_exact(shape, dtype):
    x = torch.randn(shape, dtype=dtype, generator=generator(1))
    (cap,) = CPSpec().layout(shape).max_ranks
    fit = tk.decompose(x, "cp", rank=cap, method="cp_als")
    assert relative_error(x, fit.tensor) < 1e-10
    assert fit.status.ok
    assert tk.decompose(x, "cp", eps=0.0, method="cp_als").rel_error <= error_floor(dtype, x.ndim)


def test_matrices_are_done_by_their_singular_values():
    x = torch.randn(6, 1, 8, dtype=torch.float64, generator=generator(0))
    s = torch.linalg.svdvals(x[:, 0])
    for rank in (1, 3, 6):
        fit = tk.decompose(x, "cp", rank=rank, method="cp_als")
        assert fit.rel_error == pytest.approx(float(s[rank:].norm() / s.norm()), abs=1e-12)
        assert fit.ranks == (rank,)


def test_the_eigenvalue_start_is_exact_for_exact_data():
    for dtype, shape, rank in [
        (torch.float64, (6, 7, 8), 6),
        (torch.complex128, (4, 2, 5, 3), 5),
        (torch.float64, (2,) * 6, 4),
    ]:
        x = random_format("cp", shape, rank, dtype=dtype, rng=2).to_dense()
        start = eigen_start(x, rank, float(torch.linalg.vector_norm(x)), generator(0))
        assert start is not None
        torch.testing.assert_close(contract(CPSpec().layout(shape).topology, start), x, rtol=1e-6, atol=1e-6)
    assert eigen_start(torch.ones(3, 3, 3), 4, 1.0, generator(0)) is None


def test_a_large_array_is_fitted_compressed():
    exact = random_format("cp", (70, 60, 50), 5, rng=0).to_dense()
    x = exact + 0.01 * exact.norm() / exact.numel() ** 0.5 * torch.randn(
        exact.shape, dtype=exact.dtype, generator=generator(1)
    )
    fit = tk.decompose(x, "cp", rank=5, method="cp_als")
    plain = tk.decompose(x, "cp", rank=5, method=CPALS(compress=False, starts=1))
    assert fit.rel_error == pytest.approx(0.01, rel=0.05)
    assert fit.rel_error <= plain.rel_error * (1 + 1e-4)
    by_eps = tk.decompose(x, "cp", eps=0.012, method="cp_als")
    assert by_eps.ranks == (5,)
    assert relative_error(x, by_eps.tensor) <= 0.012


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
    st.sampled_from(DTYPES),
    st.sampled_from([0.0, 1e-2, 0.1, 0.5, 0.9, 1.0]),
    st.integers(0, 1000),
)
@settings(max_examples=15)
def test_eps_is_kept(shape, dtype, eps, seed):
    x = torch.randn(shape, dtype=dtype, generator=generator(seed))
    fit = tk.decompose(x, "cp", eps=eps, method="cp_als")
    true = relative_error(x, fit.tensor)
    assert true <= max(eps * (1 + 1e-6), error_floor(dtype, x.ndim))
    assert fit.rel_error == pytest.approx(true, rel=1e-2, abs=error_floor(dtype, x.ndim))


def test_limits_hold_together():
    x = torch.randn(8, 9, 10, dtype=torch.float64, generator=generator(0))
    fit = tk.decompose(x, "cp", eps=0.1, budget=200, method="cp_als")
    assert fit.n_params <= 200
    assert fit.status.name == "eps_not_reached"
    fit = tk.decompose(x, "cp", eps=0.1, rank=4, method="cp_als")
    assert fit.ranks == (4,)
    assert fit.status.name == "eps_not_reached"
    fit = tk.decompose(x, "cp", budget=200, method=CPALS(max_steps=10, starts=0))
    assert 200 - 28 < fit.n_params <= 200


@pytest.mark.parametrize("start", ["auto", "eigen", "svd", "random"])
def test_every_start_works_and_is_reproducible(start):
    x = random_format("cp", (6, 7, 8), 3, rng=0).to_dense()
    first, again = (tk.decompose(x, "cp", rank=3, method=CPALS(start=start), rng=5) for _ in range(2))
    assert first.rel_error < 1e-8
    torch.testing.assert_close(first.tensor.weights, again.tensor.weights)
    with pytest.raises(OptionError, match="start"):
        CPALS(start="best")


SHAPES = [(7, 5), (4, 5, 6), (5, 1, 4, 3), (3, 4, 2, 3, 2), (2, 3, 2, 2, 3, 2)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_dimension_tree_gives_the_products_of_the_unfoldings(shape, rank, dtype):
    gen = generator(0)
    x = torch.randn(shape, dtype=dtype, generator=gen)
    rows = [torch.randn(rank, n, dtype=dtype, generator=gen) for n in shape]
    seen = {}
    CPLeastSquares(x, float(x.norm()))._sides(rows, lambda k, side: seen.update({k: side.clone()}))
    assert sorted(seen) == list(range(len(shape)))
    for k, side in seen.items():
        others = [row.conj() for j, row in enumerate(rows) if j != k]
        product = others[0]
        for row in others[1:]:
            product = (product[:, :, None] * row[:, None, :]).reshape(rank, -1)
        direct = product @ x.movedim(k, 0).reshape(shape[k], -1).mT
        assert float((side - direct).norm()) <= 200 * torch.finfo(dtype).eps * float(direct.norm())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_sweep_solves_the_dense_normal_equations(shape, dtype):
    """The last factor of a sweep is the best one for the others; errors never rise."""
    gen = generator(1)
    x = torch.randn(shape, dtype=dtype, generator=gen)
    terms = CPLeastSquares(x, float(x.norm()))
    tensors = random_start(x, 2, terms.norm, gen)
    errors = []
    for _ in range(8):
        tensors, error = terms.sweep(tensors)
        errors.append(error)
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(errors))
    weights, *factors = tensors
    product = weights[None]
    for f in factors[:-1]:
        product = (product[:, None] * f[None]).reshape(-1, f.shape[1])
    matrix = x.reshape(-1, shape[-1])
    best = torch.linalg.lstsq(product, matrix).solution
    least = float((matrix - product @ best).norm()) / terms.norm
    assert errors[-1] == pytest.approx(least, rel=1e-7)


@pytest.mark.parametrize(("shape", "rank"), [((40, 41, 42), 6), ((16, 15, 14, 13), 5), ((8,) * 5, 7)])
def test_a_sweep_costs_two_products_with_the_array(shape, rank):
    x = torch.randn(shape, dtype=torch.float64, generator=generator(0))
    terms = CPLeastSquares(x, float(x.norm()))
    tensors = random_start(x, rank, terms.norm, generator(1))
    with FlopCounterMode(display=False) as counter:
        terms.sweep(tensors)
    two = 4 * x.numel() * rank
    assert two <= counter.get_total_flops() <= 1.35 * two


def test_all_steps_are_counted():
    x = random_format("cp", (70, 60, 50), 5, rng=0).to_dense() + torch.randn(70, 60, 50, dtype=torch.float64)
    for steps in (1, 4, 20):
        fit = tk.decompose(x, "cp", rank=4, method=CPALS(max_steps=steps, tol=0.0))
        assert [info.step for info in fit.history] == list(range(1, len(fit.history) + 1))
        assert len(fit.history) <= steps
        assert fit.rel_error == pytest.approx(relative_error(x, fit.tensor), rel=1e-6)


def test_ranks_above_the_size_of_a_mode():
    x = random_format("cp", (60, 50, 4), 9, rng=3).to_dense()
    assert tk.decompose(x, "cp", rank=9, method="cp_als").rel_error < 1e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1,), (1, 1), (6, 1, 5), (1, 3, 1, 4, 1), (3, 4, 2), (70, 60, 2)], ids=str)
def test_sizes_of_one_and_large_ranks(shape, dtype):
    x = torch.randn(shape, dtype=dtype, generator=generator(0))
    for rank in (1, 3, 7):
        fit = tk.decompose(x, "cp", rank=rank, method=CPALS(max_steps=6, starts=2))
        assert fit.tensor.dtype == dtype
        assert fit.rel_error == pytest.approx(
            relative_error(x, fit.tensor), rel=1e-5, abs=error_floor(dtype, len(shape))
        )


def test_the_error_that_a_fit_tells_without_measuring_is_the_true_one():
    x = random_format("cp", (90, 80, 70), 9, rng=0).to_dense()
    noise = torch.randn(x.shape, dtype=x.dtype, generator=generator(1))
    for share in (0.02, 0.1, 1.0):
        y = x + share * x.norm() / noise.norm() * noise
        for compress in (True, False):
            fit = tk.decompose(y, "cp", rank=9, method=CPALS(max_steps=12, starts=1, compress=compress))
            assert fit.rel_error == pytest.approx(relative_error(y, fit.tensor), rel=1e-8)
            assert fit.rel_error < 1.05 * share


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_an_eps_that_a_rank_hardly_reaches_is_reached_with_it(rank):
    t, wave = torch.linspace(0, 1, 24, dtype=torch.float64), torch.arange(14)
    x = torch.sin(3 * t[:, None, None] * wave + 5 * t[:18, None] ** 2 * (1 + 0.1 * wave))
    best = tk.decompose(x, "cp", rank=rank).rel_error
    for seed in range(3):
        assert tk.decompose(x, "cp", eps=1.003 * best, rng=seed).ranks == (rank,)


@pytest.mark.parametrize("wrong", [{"max_steps": 0}, {"max_steps": 2.5}, {"tol": -1.0}, {"tol": float("nan")}], ids=str)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(OptionError, match=r"CPALS\((max_steps|tol)="):
        CPALS(**wrong)
