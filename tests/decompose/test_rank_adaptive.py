"""RankAdaptiveHOOI: eps held at fewer entries, limits kept, planted ranks found."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnkit as tk
from tnkit.decompose import RankAdaptiveHOOI, adapt_ranks, error_floor, relative_error
from tnkit.decompose.core_shape import Compressed
from tnkit.errors import OptionError
from tnkit.formats import random_format
from tnkit.rng import generator
from tnkit.solvers import Control

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def decaying(shape, power, seed, dtype=torch.float64):
    """An array whose entries fall with the sum of their indices, turned by random orthogonal matrices."""
    gen = generator(seed)
    x = torch.randn(shape, dtype=dtype, generator=gen)
    for k, n in enumerate(shape):
        scale = torch.arange(1, n + 1, dtype=x.real.dtype) ** -power
        turn = torch.linalg.qr(torch.randn(n, n, dtype=dtype, generator=gen)).Q
        x = torch.movedim(torch.tensordot(turn * scale, x, dims=([1], [k])), 0, k)
    return x.contiguous()


@pytest.mark.parametrize("shape", [(14, 15, 16), (7, 8, 9, 6), (20, 20, 4)])
@pytest.mark.parametrize("eps", [0.3, 0.1, 0.02])
def test_fewer_entries_at_the_same_error(shape, eps):
    x = decaying(shape, 0.7, 0)
    direct = tk.decompose(x, "tucker", eps=eps, method="st_hosvd")
    fit = tk.decompose(x, "tucker", eps=eps, method="rank_adaptive_hooi")
    assert relative_error(x, fit.tensor) <= eps
    assert fit.n_params <= direct.n_params
    assert fit.status.ok
    assert len(fit.history) <= RankAdaptiveHOOI().max_steps


@pytest.mark.parametrize(("shape", "rank", "eps"), [((14, 15, 16), 12, 0.4), ((8, 8, 8, 8), 10, 0.6)])
def test_it_gains_where_sweeps_do(shape, rank, eps):
    arrays = [random_format("cp", shape, rank, rng=seed).to_dense() for seed in range(4)]
    before, after = (
        sum(tk.decompose(x, "tucker", eps=eps, method=name).n_params for x in arrays)
        for name in ("st_hosvd", "rank_adaptive_hooi")
    )
    assert after < 0.93 * before


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_planted_ranks_are_found(dtype):
    x = random_format("tucker", (9, 10, 11), (2, 3, 4), dtype=dtype, rng=0).to_dense()
    fit = tk.decompose(x, "tucker", eps=1e-3, method="rank_adaptive_hooi")
    assert fit.ranks == (2, 3, 4)
    for factor in fit.tensor.factors:
        torch.testing.assert_close(factor.mH @ factor, torch.eye(factor.shape[1], dtype=dtype), rtol=0, atol=1e-5)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.sampled_from(DTYPES),
    st.sampled_from([0.0, 1e-2, 0.1, 0.5, 0.9, 1.0]),
    st.integers(0, 1000),
)
@settings(max_examples=25)
def test_eps_is_kept(shape, dtype, eps, seed):
    x = torch.randn(shape, dtype=dtype, generator=generator(seed))
    fit = tk.decompose(x, "tucker", eps=eps, method="rank_adaptive_hooi")
    true = relative_error(x, fit.tensor)
    assert true <= max(eps * (1 + 1e-6), error_floor(dtype, x.ndim))
    assert fit.rel_error == pytest.approx(true, rel=1e-2, abs=error_floor(dtype, x.ndim))
    assert fit.n_params <= tk.decompose(x, "tucker", eps=eps, method="st_hosvd").n_params


def test_limits_hold_together():
    x = decaying((12, 13, 14), 0.5, 1)
    fit = tk.decompose(x, "tucker", eps=0.05, rank=4, method="rank_adaptive_hooi")
    assert max(fit.ranks) <= 4
    assert fit.status.name == "eps_not_reached"
    fit = tk.decompose(x, "tucker", eps=0.05, budget=300, method="rank_adaptive_hooi")
    assert fit.n_params <= 300
    same = tk.decompose(x, "tucker", rank=4, method="rank_adaptive_hooi")
    assert same.ranks == (4, 4, 4)


def test_steps_are_counted():
    x = decaying((14, 15, 16), 0.5, 0)
    fit = tk.decompose(x, "tucker", eps=0.25, method=RankAdaptiveHOOI(max_steps=3))
    assert len(fit.history) <= 3
    assert relative_error(x, fit.tensor) <= 0.25


def test_adapt_ranks_in_the_coordinates_of_a_core():
    x = decaying((10, 11, 12), 0.6, 2)
    eye = [torch.eye(n, dtype=x.dtype) for n in x.shape]
    error2 = (0.2 * float(x.norm())) ** 2
    found, status, history = adapt_ranks(x, Compressed(x, eye, 0.0), error2, (10, 11, 12), Control(max_steps=30))
    dense = found.core
    for k, f in enumerate(found.factors):
        dense = torch.movedim(torch.tensordot(f, dense, dims=([1], [k])), 0, k)
    lost2 = float((x - dense).norm()) ** 2
    assert lost2 == pytest.approx(found.lost2, rel=1e-8)
    assert lost2 <= error2
    assert status.ok
    assert found.core.numel() < x.numel()
    assert [info.step for info in history] == list(range(1, len(history) + 1))


def test_wrong_options_are_refused():
    with pytest.raises(OptionError, match="max_steps"):
        RankAdaptiveHOOI(max_steps=0)
