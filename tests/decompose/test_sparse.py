"""CP, Tucker and TT of coordinates against the dense path, and truth about the error."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnkit as tk
from tests.decompose.sparse_data import DIRECT, FORMATS, METHODS, planted, require_repeated, sparse_array
from tests.properties.data import DTYPES, shapes, true_error
from tnkit.decompose import error_floor, sparse_error, sparse_mttkrp
from tnkit.decompose.sparse_error import _tucker_at
from tnkit.decompose.sparse_mttkrp import SparseCP
from tnkit.errors import MemoryLimitError, OptionError, ShapeError
from tnkit.rng import generator, normal
from tnkit.sources import SparseTensor


def require_true(x, fit):
    """The reported error is the true one to 1 %, or a bound."""
    true = true_error(x, fit.tensor.to_dense())
    floor = 4 * error_floor(x.dtype, x.ndim)
    if fit.error_kind == "bound":
        assert true <= fit.rel_error * 1.01 + floor
    else:
        assert fit.rel_error == pytest.approx(true, rel=0.01, abs=floor)
    assert fit.tensor.dtype == x.dtype
    assert fit.tensor.shape == tuple(x.shape)
    return true


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", DIRECT)
@settings(max_examples=12)
@given(shape=shapes(most=5), density=st.sampled_from([0.05, 0.3, 1.0]), seed=st.integers(0, 10**6))
def test_the_same_error_at_the_same_ranks(name, dtype, shape, density, seed):
    x = sparse_array(shape, seed, density, dtype)
    fit, dense = tk.decompose(SparseTensor.from_dense(x), name, rank=2), tk.decompose(x, name, rank=2)
    require_true(x, fit)
    assert fit.method == METHODS[name]
    assert all(r <= 2 for r in fit.ranks)
    slack = 1.0 if name == "tt" and len(shape) > 2 else 0.1  # trains are cut from another end; sweeps end elsewhere
    assert fit.rel_error <= (1 + slack) * dense.rel_error + 1e3 * error_floor(dtype, x.ndim)
    if name == "tt" and len(shape) == 2:
        assert fit.rel_error == pytest.approx(dense.rel_error, rel=1e-5, abs=1e-5 if dtype.itemsize < 8 else 1e-9)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", DIRECT)
@settings(max_examples=12)
@given(
    shape=shapes(most=5),
    density=st.sampled_from([0.05, 0.3, 1.0]),
    eps=st.one_of(st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 0.5, 1.0]), st.floats(0.0, 1.0)),
    seed=st.integers(0, 10**6),
)
def test_eps_is_kept(name, dtype, shape, density, eps, seed):
    x = sparse_array(shape, seed, density, dtype)
    fit = tk.decompose(SparseTensor.from_dense(x), name, eps=eps)
    true = require_true(x, fit)
    rounding = error_floor(x.dtype, x.ndim)
    assert fit.status.ok or fit.status.name == "floor"
    assert true <= max(eps * (1 + 1e-6), rounding) + rounding * 0.1
    twin = x.to(torch.complex128 if x.is_complex() else torch.float64)
    if eps >= 1e-6:  # in single precision smaller ones are met to rounding only
        assert fit.n_params <= 1.05 * tk.decompose(twin, name, eps=eps).n_params + 4


@pytest.mark.parametrize("name", DIRECT)
@settings(max_examples=12)
@given(shape=shapes(least=2, most=5), seed=st.integers(0, 10**6), share=st.floats(0.2, 2.0))
def test_a_size_is_not_exceeded(name, shape, seed, share):
    x = sparse_array(shape, seed)
    least = tk.decompose(SparseTensor.from_dense(x), name, rank=1).n_params
    budget = max(least, int(share * x.numel()))
    fit, dense = tk.decompose(SparseTensor.from_dense(x), name, budget=budget), tk.decompose(x, name, budget=budget)
    require_true(x, fit)
    assert fit.n_params <= budget
    assert fit.rel_error <= 1.1 * dense.rel_error + 1e-9


@settings(max_examples=10)
@given(shape=shapes(most=4), seed=st.integers(0, 10**6), eps=st.sampled_from([0.0, 0.1, 0.5]))
def test_cp_by_eps(shape, seed, eps):
    x = sparse_array(shape, seed)
    fit = tk.decompose(SparseTensor.from_dense(x), "cp", eps=eps)
    true = require_true(x, fit)
    assert true <= max(eps, error_floor(x.dtype, x.ndim)) * (1 + 1e-6)
    assert fit.status.ok or fit.status.name == "floor"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(7,), (5, 7), (4, 5, 6), (3, 4, 2, 3), (2, 1, 3, 1, 4), (1, 1, 1)])
def test_exact_at_the_largest_ranks(name, shape):
    x = sparse_array(shape, 2)
    ranks = tk.formats.as_spec(name).layout(shape).max_ranks
    fit = tk.decompose(SparseTensor.from_dense(x), name, rank=ranks)
    assert true_error(x, fit.tensor.to_dense()) < 1e-10
    assert fit.rel_error < 1e-10


@pytest.mark.parametrize("name", FORMATS)
class TestEdges:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("asked", [{"rank": 3}, {"eps": 0.0}, {"budget": 200}])
    def test_nothing_but_zeros(self, name, dtype, asked):
        x = SparseTensor(torch.zeros((0, 3), dtype=torch.int64), torch.zeros(0, dtype=dtype), (4, 5, 6))
        fit = tk.decompose(x, name, **asked)
        assert fit.rel_error == 0.0
        assert fit.tensor.dtype == dtype
        assert not fit.tensor.to_dense().any()
        zeros = SparseTensor([[0, 0, 0]], [0.0], (4, 5, 6))
        assert tk.decompose(zeros, name, **asked).rel_error == 0.0
        assert tk.decompose(SparseTensor([], [], (4, 5, 6)), name, **asked).rel_error == 0.0

    @pytest.mark.parametrize("shape", [(9,), (4, 5), (4, 5, 6), (10**5, 1, 10**4, 10**3), (300, 20, 1, 10**4, 50)])
    @pytest.mark.parametrize("asked", [{"rank": 2}, {"eps": 1e-9}])
    def test_one_entry(self, name, shape, asked):
        place = [n // 2 for n in shape]
        fit = tk.decompose(SparseTensor([place], [-3.0], shape), name, **asked)
        assert fit.rel_error < 1e-13
        assert float(fit.tensor.at([place])[0]) == pytest.approx(-3.0)
        assert float(fit.tensor.norm()) == pytest.approx(3.0)

    @pytest.mark.parametrize("exponent", [-300, -30, 30, 300])
    def test_extreme_scales(self, name, exponent):
        dtype = torch.float64 if abs(exponent) > 100 else torch.float32
        x = sparse_array((4, 5, 6), 3, dtype=dtype) * 10.0**exponent
        fit = tk.decompose(SparseTensor.from_dense(x), name, eps=0.1)
        assert require_true(x, fit) <= 0.1

    def test_a_factor_passes_through(self, name):
        x = sparse_array((4, 5, 6), 3)
        one, other = (tk.decompose(SparseTensor.from_dense(c * x), name, rank=2).tensor for c in (1.0, 1024.0))
        require_repeated(1024.0 * one.to_dense(), other.to_dense())

    def test_the_same_seed_gives_the_same_answer(self, name):
        x = SparseTensor.from_dense(sparse_array((8, 9, 10), 3))
        one, other = (tk.decompose(x, name, rank=2, rng=5).tensor for _ in range(2))
        for a, b in zip(one.tensors(), other.tensors(), strict=True):
            require_repeated(a, b)

    def test_dense_arrays_by_name(self, name):
        x = sparse_array((6, 7, 8), 1)
        fit = tk.decompose(x, name, rank=2, method=METHODS[name])
        assert require_true(x, fit) < 1.0

    def test_what_does_not_fit_the_memory_is_refused(self, name, monkeypatch):
        gen = generator(0)
        shape = (10**7, 10**7, 10**7)
        indices = torch.stack([torch.randint(0, n, (2500,), generator=gen) for n in shape], dim=1)
        x = SparseTensor(indices, torch.ones(2500, dtype=torch.float64), shape)
        with pytest.raises(MemoryLimitError):
            tk.decompose(x, name, eps=1e-6)


def test_a_time_limit_gives_the_best_so_far():
    x = SparseTensor.from_dense(sparse_array((30, 30, 30), 1))
    fit = tk.decompose(x, "cp", rank=10, method=tk.SparseCPALS(max_steps=10**6, tol=0.0), time_limit_s=0.3)
    assert fit.status.name == "time_limit"
    assert fit.rel_error < 1.0


@pytest.mark.parametrize("method", [tk.SparseCPALS, tk.SparseTucker])
def test_numbers_out_of_range(method):
    with pytest.raises(OptionError, match="max_steps"):
        method(max_steps=0)
    with pytest.raises(OptionError, match="unknown"):
        tk.SparseCPALS(start="svd")


@st.composite
def coordinates(draw):
    """Coordinates as they come: any order, repeated positions, explicit zeros; and the dense array they stand for."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=5)))
    count, dtype = draw(st.integers(1, 120)), draw(st.sampled_from(DTYPES))
    gen = generator(draw(st.integers(0, 10**6)))
    indices = torch.stack([torch.randint(0, n, (count,), generator=gen) for n in shape], dim=1)
    values = normal((count,), torch.empty(0, dtype=dtype), gen)
    values[torch.rand(count, generator=gen) < draw(st.sampled_from([0.0, 0.3]))] = 0.0
    x = SparseTensor(indices, values, shape)
    dense = torch.zeros(shape, dtype=dtype).index_put_(tuple(indices.unbind(1)), values, accumulate=True)
    return x, dense


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=30)
@given(given_=coordinates(), eps=st.one_of(st.sampled_from([1e-3, 0.1, 0.5]), st.floats(0.01, 1.0)))
def test_coordinates_as_they_come_keep_eps_and_report_the_true_error(name, given_, eps):
    x, dense = given_
    torch.testing.assert_close(x.to_dense(), dense)
    fit = tk.decompose(x, name, eps=eps)
    if not bool(x.values.any()):
        assert fit.rel_error == 0.0
        return
    true = require_true(x.to_dense(), fit)
    assert true <= eps * (1 + 1e-6) + error_floor(x.dtype, x.ndim)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=15)
@given(given_=coordinates(), rank=st.integers(1, 4))
def test_coordinates_as_they_come_keep_ranks(name, given_, rank):
    x, _ = given_
    fit = tk.decompose(x, name, rank=rank)
    assert all(r <= rank for r in fit.ranks)
    if x.nnz:
        require_true(x.to_dense(), fit)


@pytest.mark.parametrize("rank", [1, 5])
def test_sums_of_groups_in_pieces(rank, monkeypatch):
    """Where the sums of a group take too much memory they are made some columns at a time."""
    gen = generator(0)
    shape = (6, 7, 8, 9)
    indices = torch.stack([torch.randint(0, n, (2000,), generator=gen) for n in shape], dim=1)
    x = SparseTensor(indices, torch.randn(2000, generator=gen, dtype=torch.float64), shape)
    tensors = (torch.ones(rank, dtype=torch.float64), *(normal((n, rank), x.values, gen) for n in shape))
    whole, error = SparseCP(x, 10.0).sweep(tensors)
    monkeypatch.setattr(sparse_mttkrp, "ROOM", -x.nnz * 5 + 100)
    pieces, again = SparseCP(x, 10.0).sweep(tensors)
    assert again == pytest.approx(error)
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a, b)


def test_entries_of_a_tucker_with_a_large_core():
    value = tk.random_format("tucker", (40, 30, 50), (20, 18, 22), rng=0)
    gen = generator(0)
    indices = torch.stack([torch.randint(0, n, (700,), generator=gen) for n in value.shape], dim=1)
    torch.testing.assert_close(_tucker_at(value, indices), value.at(indices))


# --- large and planted ----------------------------------------------------------------------------------------------


def test_planted_terms_are_found():
    x, planted_factors = planted((3000, 2000, 1000), 4, (20, 15, 10))
    fit = tk.decompose(x, "cp", rank=4)
    assert fit.rel_error < 1e-6
    for a, b in zip(planted_factors, fit.tensor.factors, strict=True):
        cosines = (a / a.norm(dim=0)).mT @ b
        torch.testing.assert_close(cosines.abs().amax(1), torch.ones(4, dtype=a.dtype), atol=1e-5, rtol=0)
    assert tk.decompose(x, "cp", eps=1e-2).ranks == (4,)


@pytest.mark.parametrize("name", DIRECT)
def test_planted_ranks_are_found_at_a_tight_eps(name):
    x, _ = planted((3000, 2000, 1000), 4, (20, 15, 10))
    fit = tk.decompose(x, name, eps=1e-9)
    assert set(fit.ranks) == {4}
    assert fit.rel_error <= 1e-9
    assert fit.status.ok


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_large_arrays_whose_box_is_not_small(name, noise):
    x, _ = planted((3000, 2500, 2000), 6, (60, 50, 40), noise=noise)
    fit = tk.decompose(x, name, rank=6)
    assert fit.rel_error < (1e-6 if noise == 0 else 0.2)
    assert fit.error_kind == ("exact" if noise else "bound")
    loose = tk.decompose(x, name, eps=0.3)
    assert loose.rel_error <= 0.3
    assert loose.n_params <= fit.n_params


def test_the_error_of_a_large_format_is_the_true_one():
    """Against the same sum in two parts, of which neither cancels, on an array too large to be compared whole."""
    gen = generator(0)
    shape = (400, 300, 200)
    value = tk.random_format("cp", shape, 3, rng=0)
    places = torch.randperm(400 * 300 * 200, generator=gen)[:5000].sort().values
    indices = torch.stack(torch.unravel_index(places, shape), dim=1)
    for scale in (1.0, 1e-3):
        x = SparseTensor(indices, torch.randn(5000, generator=gen, dtype=torch.float64), shape)
        approximation = value * scale
        dense = x.to_dense()
        error, kind = sparse_error(x, approximation)
        assert kind == "exact"
        assert error == pytest.approx(true_error(dense, approximation.to_dense()), rel=1e-6)
        assert tk.error(x, approximation) == error
        assert tk.error(dense.to_sparse(), approximation.to(torch.float32)) == pytest.approx(error, rel=1e-4)
    with pytest.raises(ShapeError):
        tk.error(x, tk.random_format("cp", (2, 3, 4), 1, rng=0))


def test_errors_below_what_a_difference_resolves_are_bounds():
    x, factors = planted((600, 500, 400), 2, (60, 50, 40))
    exact = tk.CP(torch.ones(2, dtype=torch.float64), tuple(factors))
    error, kind = sparse_error(x, exact)
    assert kind == "bound"
    assert error < 1e-6
    zero = SparseTensor([], [], (2, 2))
    nothing = tk.random_format("cp", (2, 2), 1, rng=0) * 0.0
    assert sparse_error(zero, nothing) == (0.0, "exact")
    assert sparse_error(zero, nothing.with_tensors([t + 1 for t in nothing.tensors()]))[0] == float("inf")


def test_memory_stays_with_the_entries_and_the_result():
    gen = generator(0)
    shape = (2000, 1000, 1000, 500)
    indices = torch.stack([torch.randint(0, n, (20_000,), generator=gen) for n in shape], dim=1)
    x = SparseTensor(indices, torch.ones(20_000, dtype=torch.float64), shape)
    for name in FORMATS:
        fit = tk.decompose(x, name, rank=2)
        assert fit.n_params < 20_000
        assert 0.9 < fit.rel_error < 1.0
        assert fit.rel_error == pytest.approx(tk.error(x, fit.tensor), rel=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FORMATS)
def test_on_a_device(name):
    x = sparse_array((20, 30, 40), 1)
    here = tk.decompose(SparseTensor.from_dense(x), name, eps=0.5)
    there = tk.decompose(SparseTensor.from_dense(x.cuda()), name, eps=0.5)
    assert there.tensor.device.type == "cuda"
    assert there.rel_error <= 0.5
    assert abs(there.n_params - here.n_params) <= 0.2 * here.n_params
