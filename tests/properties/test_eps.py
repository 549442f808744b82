"""Properties 1, 2, 3 and 10: eps is kept, the reported error is the true one, scale passes through, seeds repeat."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnkit as tk
from tests.properties.data import DTYPES, array, kinds, shapes, strided, true_error
from tnkit.decompose import error_floor
from tnkit.registry import FORMATS

ALL = FORMATS.names()
#: Formats whose method for eps is direct, so that many examples are cheap.
DIRECT = ("tt", "ttm", "tucker", "ht", "lowrank", "btt", "kron", "tubal")
ITERATIVE = tuple(name for name in ALL if name not in DIRECT)
EPS = st.one_of(st.sampled_from([0.0, 1e-6, 1e-3, 0.01, 0.1, 0.5, 1.0]), st.floats(0.0, 1.0))


def check_eps(name: str, x: torch.Tensor, eps: float) -> None:
    before = x.clone()
    fit = tk.decompose(x, name, eps=eps)
    true = true_error(x, fit.tensor.to_dense())
    rounding = error_floor(x.dtype, x.ndim)
    if fit.status.name == "floor":
        assert true <= max(eps, rounding)
    elif fit.status.name == "eps_not_reached":
        assert true > eps, "said that eps was not reached, though it was"
        # only formats that cannot hold every array may say so
        assert not exact_somewhere(name, x), f"{name} can hold any array of shape {tuple(x.shape)}"
    else:
        assert true <= eps * (1 + 1e-6) + rounding * 0.1, (true, eps, fit)
    check_reported(x, fit, true)
    assert fit.tensor.shape == tuple(x.shape)
    assert fit.tensor.dtype == x.dtype
    assert torch.equal(x, before), "the caller's array was changed"


def exact_somewhere(name: str, x: torch.Tensor) -> bool:
    return FORMATS.get(name).layout(tuple(x.shape)).max_ranks is not None


def check_reported(x: torch.Tensor, fit: tk.FitReport, true: float) -> None:
    floor = 4 * error_floor(x.dtype, x.ndim)
    if fit.error_kind == "bound":
        assert true <= fit.rel_error * 1.01 + floor
    else:
        assert fit.error_kind == "exact"
        assert fit.rel_error == pytest.approx(true, rel=0.01, abs=floor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", DIRECT)
@settings(max_examples=15)
@given(shape=shapes(), kind=kinds(), eps=EPS, seed=st.integers(0, 10**6))
def test_eps_is_kept_and_the_error_is_true(name, dtype, shape, kind, eps, seed):
    check_eps(name, array(shape, kind, seed, dtype), eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ITERATIVE)
@settings(max_examples=3)
@given(shape=shapes(most=4), kind=kinds(), eps=st.sampled_from([0.0, 1e-3, 0.1, 0.5, 1.0]), seed=st.integers(0, 10**6))
def test_eps_is_kept_by_iterative_methods(name, dtype, shape, kind, eps, seed):
    check_eps(name, array(shape, kind, seed, dtype), eps)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_arrays(name, dtype):
    fit = tk.decompose(torch.zeros((3, 4, 5), dtype=dtype), name, eps=0.0)
    assert fit.rel_error == 0.0
    assert torch.equal(fit.tensor.to_dense(), torch.zeros((3, 4, 5), dtype=dtype))


@pytest.mark.parametrize("name", DIRECT)
@settings(max_examples=8)
@given(shape=shapes(), eps=st.sampled_from([1e-4, 0.1]), seed=st.integers(0, 10**6))
def test_memory_that_is_not_contiguous(name, shape, eps, seed):
    x = array(shape, "planted", seed)
    check_eps(name, strided(x), eps)
    turned = x.permute(tuple(reversed(range(x.ndim))))
    check_eps(name, turned, eps)


@pytest.mark.parametrize("exponent", [-200, 200])
@pytest.mark.parametrize("name", ALL)
def test_extreme_scales_in_double_precision(name, exponent):
    x = array((4, 5, 6), "planted", 3) * 10.0**exponent
    check_eps(name, x, 0.1)


@pytest.mark.parametrize("exponent", [-30, 30])
@pytest.mark.parametrize("name", ALL)
def test_extreme_scales_in_single_precision(name, exponent):
    x = array((4, 5, 6), "planted", 3, torch.float32) * 10.0**exponent
    check_eps(name, x, 0.1)


@pytest.mark.parametrize("name", DIRECT)
@settings(max_examples=8)
@given(shape=shapes(least=2), kind=kinds(), factor=st.sampled_from([-1.0, 3.7, 1e5, 1e-5]), seed=st.integers(0, 10**6))
def test_a_factor_passes_through(name, shape, kind, factor, seed):
    x = array(shape, kind, seed)
    one, other = tk.decompose(x, name, eps=0.1), tk.decompose(factor * x, name, eps=0.1)
    assert one.ranks == other.ranks
    assert true_error(factor * one.tensor.to_dense(), other.tensor.to_dense()) < 1e-7


@pytest.mark.parametrize("name", ITERATIVE)
def test_a_factor_passes_through_iterations(name):
    x = array((4, 5, 6), "planted", 1)
    one, other = tk.decompose(x, name, rank=2), tk.decompose(1024.0 * x, name, rank=2)
    assert one.ranks == other.ranks
    assert true_error(1024.0 * one.tensor.to_dense(), other.tensor.to_dense()) < 1e-5


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_gives_the_same_answer(name):
    x = array((4, 5, 6), "noise", 1)
    one, other = tk.decompose(x, name, rank=2, rng=5), tk.decompose(x, name, rank=2, rng=5)
    for a, b in zip(one.tensor.tensors(), other.tensor.tensors(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(7,), (5, 7), (4, 5, 6), (3, 4, 2, 3)])
def test_exact_at_max_ranks(name, shape):
    layout = FORMATS.get(name).layout(shape)
    if layout.max_ranks is None:
        assert name == "monarch"
        return
    x = array(shape, "noise", 2)
    fit = tk.decompose(x, name, rank=layout.max_ranks)
    assert true_error(x, fit.tensor.to_dense()) < 1e-10
