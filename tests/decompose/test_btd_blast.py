"""BTDALS and BlastFit."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnkit as tk
from tnkit.decompose import error_floor, relative_error
from tnkit.decompose.blast import BlastFit
from tnkit.decompose.btd_als import BTDALS
from tnkit.decompose.term_sweep import TermSweeps, hosvd, with_empty_terms
from tnkit.errors import OptionError
from tnkit.formats import BLASTSpec, BTDSpec, random_format
from tnkit.rng import generator

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def noise(shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=dtype, generator=generator(seed))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "rank"), [((6, 7, 8), 2), ((8, 8, 8), 2), ((5, 6), 2)])
def test_planted_block_terms_are_found(shape, rank, dtype):
    x = random_format("btd", shape, rank, dtype=dtype, rng=7).to_dense()
    fit = tk.decompose(x, "btd", rank=rank, method="btd_als")
    assert relative_error(x, fit.tensor) < (1e-4 if dtype in (torch.float32, torch.complex64) else 1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(4, 5, 6), (3, 4, 2, 3), (5, 6), (1, 5, 4), (7,), (1, 1), (2,) * 6])
@pytest.mark.parametrize("spec", [BTDSpec(2), BTDSpec(1), BLASTSpec((2, 2)), BLASTSpec()], ids=str)
def test_the_largest_ranks_are_exact(spec, shape, dtype):
    x = noise(shape, dtype)
    fit = tk.decompose(x, spec, rank=spec.layout(shape).max_ranks)
    assert relative_error(x, fit.tensor) < 1e-10
    assert fit.status.ok
    assert tk.decompose(x, spec, eps=1e-3).rel_error <= 1e-3


@given(
    st.sampled_from([BTDSpec(2), BTDSpec(3), BLASTSpec((2, 2)), BLASTSpec((3, 2))]),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from(DTYPES),
    st.sampled_from([1e-2, 0.1, 0.5, 0.9, 1.0]),
    st.integers(0, 1000),
)
@settings(max_examples=15)
def test_eps_is_kept(spec, shape, dtype, eps, seed):
    x = noise(shape, dtype, seed)
    fit = tk.decompose(x, spec, eps=eps)
    assert relative_error(x, fit.tensor) <= max(eps * (1 + 1e-6), error_floor(dtype, x.ndim))


def test_large_cores_go_term_by_term():
    x = noise((14, 13, 12))
    fit = tk.decompose(x, "btd", rank=(8, 8, 8), method=BTDALS(max_steps=15))
    tucker = tk.decompose(x, "tucker", rank=(8, 8, 8), method="st_hosvd")
    assert fit.rel_error < tucker.rel_error
    sweeps = TermSweeps(x, float(x.norm()))
    tensors = with_empty_terms(hosvd(x, (8, 8, 8), generator(0)), 2, generator(0))
    errors = [sweeps.error(tensors)]
    for _ in range(5):
        tensors, error = sweeps.sweep(tensors)
        assert error == pytest.approx(sweeps.error(tensors), rel=1e-9)
        errors.append(error)
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(errors))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_planted_blast_is_found(dtype):
    x = random_format(BLASTSpec((2, 2)), (12, 12), 3, dtype=dtype, rng=7).to_dense()
    fit = tk.decompose(x, BLASTSpec((2, 2)), rank=3, method="blast")
    assert relative_error(x, fit.tensor) < (1e-4 if dtype in (torch.float32, torch.complex64) else 1e-8)


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("shape", [(12, 18), (13, 7), (4, 5, 6)])
def test_blast_is_never_worse_than_low_rank(shape, rank):
    x = noise(shape)
    fit = tk.decompose(x, "blast", rank=rank, method=BlastFit(descent_steps=20, max_steps=20, starts=1))
    assert fit.rel_error <= tk.decompose(x, "lowrank", rank=rank).rel_error * (1 + 1e-9)


@pytest.mark.parametrize(("name", "method"), [("btd", BTDALS(max_steps=10)), ("blast", BlastFit(max_steps=10))])
def test_they_are_reproducible_and_keep_a_budget(name, method):
    x = noise((6, 7, 8))
    first, again = (tk.decompose(x, name, budget=200, method=method) for _ in range(2))
    assert first.n_params <= 200
    torch.testing.assert_close(first.tensor.to_dense(), again.tensor.to_dense(), rtol=1e-4, atol=1e-4)
    scaled = tk.decompose(x * 1e-9, name, budget=200, method=method)
    assert scaled.ranks == first.ranks


@pytest.mark.parametrize(
    "wrong", [lambda: BTDALS(starts=0), lambda: BlastFit(descent_steps=0), lambda: BlastFit(tol=-1)]
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(OptionError):
        wrong()
