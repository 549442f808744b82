"""Rounding of trains with large ranks: what the sketch loses, what eps promises, when the exact one does the work."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnkit as tk
from tnkit.formats import random_format
from tnkit.formats.rounding import round_format
from tnkit.formats.rounding_sketched import _by_sketch, sketch_train
from tnkit.rng import generator


def wide(rank, parts, *, order=5, size=12, dtype=torch.float64, decay=0.3):
    """A train of rank · parts whose parts fade."""
    terms = [random_format("tt", (size,) * order, rank, dtype=dtype, rng=k) for k in range(parts)]
    whole = terms[0] * (1.0 / float(terms[0].norm()))
    for k, term in enumerate(terms[1:], 1):
        whole = whole + term * (decay**k / float(term.norm()))
    return whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("eps", [1e-1, 1e-2])
def test_eps_is_kept_with_ranks_like_those_of_the_exact_rounding(dtype, eps):
    x = wide(5, 40, dtype=dtype)
    quick = _by_sketch(x, None, eps)
    assert quick is not None
    exact = round_format(x, eps=eps)
    dense = x.to_dense()
    assert float((quick.to_dense() - dense).norm() / dense.norm()) <= eps
    assert quick.n_params <= 1.1 * exact.n_params


def test_repeated_terms_are_found_again():
    a = random_format("tt", (8,) * 8, 6, rng=0)
    x = a
    for _ in range(15):
        x = x + a
    small = x.round(eps=1e-9)
    assert small.ranks == a.ranks
    assert tk.error(x.to_dense(), small) <= 1e-9
    assert x.round(rank=6).ranks == a.ranks


@pytest.mark.parametrize("rank", [3, 8])
def test_at_a_rank_the_error_is_that_of_the_exact_rounding(rank):
    x = wide(8, 10)
    dense = x.to_dense()
    quick, exact = x.round(rank=rank), round_format(x, rank)
    assert quick.ranks == exact.ranks
    assert float((quick.to_dense() - dense).norm()) <= 1.01 * float((exact.to_dense() - dense).norm())


def test_what_is_missed_is_estimated():
    x = wide(10, 10, decay=0.7)
    for width in (8, 20, 40):
        small = sketch_train(list(x.cores), width, generator(0))
        missed = float((tk.TT.from_cores(small.cores).to_dense() - x.to_dense()).norm()) ** 2
        assert 0.2 * missed <= small.missed2 <= 5 * missed


def test_full_ranks_are_left_to_the_exact_rounding():
    x = random_format("tt", (16,) * 6, 100, rng=0)
    assert _by_sketch(x, None, 1e-8) is None
    assert tk.error(x.to_dense(), x.round(eps=1e-2)) <= 1e-2


def test_matrices_gradients_and_small_ranks():
    m = random_format(tk.TTMatrixSpec(rows=(4,) * 6, columns=(3,) * 6), (4**6, 3**6), 6, rng=0)
    m = m.format if isinstance(m, tk.Tensorized) else m
    x = m
    for _ in range(20):
        x = x + m
    assert _by_sketch(x, None, 1e-6) is not None
    assert x.round(eps=1e-6).ranks == m.ranks
    assert _by_sketch(m, None, 1e-6) is None
    tracked = x.with_tensors([t.clone().requires_grad_() for t in x.tensors()])
    assert _by_sketch(tracked, None, 1e-6) is None


@settings(max_examples=15)
@given(parts=st.integers(8, 14), rank=st.integers(8, 12), log=st.integers(-8, -1), seed=st.integers(0, 50))
def test_eps_promise(parts, rank, log, seed):
    terms = [random_format("tt", (6, 7, 5, 6), rank, rng=seed + k) * (0.2**k) for k in range(parts)]
    x = terms[0]
    for term in terms[1:]:
        x = x + term
    assert tk.error(x.to_dense(), x.round(eps=10.0**log)) <= 10.0**log
