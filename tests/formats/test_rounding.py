"""Rounding in the compressed domain: eps kept, ranks found, orthogonal forms, exact norms."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnkit as tk
from tests.properties.data import DTYPES, shapes, true_error
from tnkit.errors import MemoryLimitError, OptionError, RankError
from tnkit.formats import operations, random_format

TREES = ("tt", "ttm", "tucker", "ht", "lowrank", "kron")
FREE = (*TREES, "btt", "monarch", "tubal")
LOOPS = ("tr", "cp", "btd", "blast")


def inner(value):
    return value.format if isinstance(value, tk.Tensorized) else value


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FREE)
@settings(max_examples=8)
@given(
    shape=shapes(most=6),
    eps=st.one_of(st.sampled_from([0.0, 1e-4, 0.3, 1.0]), st.floats(0.0, 1.0)),
    share=st.sampled_from([1.0, 1e-3]),
    seed=st.integers(0, 10**6),
)
def test_eps_is_kept(name, dtype, shape, eps, share, seed):
    a = random_format(name, shape, 3, dtype=dtype, rng=seed)
    b = random_format(name, shape, 2, dtype=dtype, rng=seed + 1)
    both = a + share * b
    dense = both.to_dense()
    rounded = both.round(eps=eps)
    # cancellation of the two terms leaves the rounding errors of each
    rounding = 100 * torch.finfo(dtype).eps * float((a.norm() + share * b.norm()) / dense.norm())
    assert true_error(dense, rounded.to_dense()) <= eps * (1 + 1e-6) + rounding
    assert rounded.dtype == dtype
    assert rounded.n_params <= both.n_params


@pytest.mark.parametrize("name", FREE)
def test_the_ranks_of_a_sum_of_equals_are_found(name):
    value = random_format(name, (6, 6, 6, 6), 2, rng=0)
    assert (value + value).round(eps=1e-10).ranks == value.round(eps=1e-12).ranks


def test_ranks_are_chosen_together():
    value = random_format("tt", (8, 8, 8, 8), 8, rng=0)
    gen = torch.Generator().manual_seed(0)
    scaled = [core * torch.rand(core.shape[2], generator=gen, dtype=core.dtype) ** 4 for core in value.cores]
    value = tk.TT.from_cores(scaled)
    dense = value.to_dense()
    for eps in (0.3, 0.1, 0.03):
        rounded = value.round(eps=eps)
        assert true_error(dense, rounded.to_dense()) <= eps
        assert rounded.n_params <= tk.decompose(dense, "tt", eps=eps).n_params * 1.05
        for k, r in enumerate(rounded.ranks):
            if r > 1:
                fewer = tuple(q - (j == k) for j, q in enumerate(rounded.ranks))
                assert true_error(dense, value.round(fewer).to_dense()) > eps * 0.98


def test_by_ranks_it_is_quasi_optimal_and_a_limit_beside_eps():
    value = random_format("tt", (6, 7, 8), (5, 6), rng=0)
    dense = value.to_dense()
    rounded = value.round((3, 4))
    tails = [torch.linalg.svdvals(dense.reshape(m, -1))[r:].square().sum() for m, r in ((6, 3), (42, 4))]
    assert rounded.ranks == (3, 4)
    assert true_error(dense, rounded.to_dense()) <= sqrt(float(sum(tails))) / float(dense.norm()) * (1 + 1e-9)
    assert value.round(2, eps=1e-3).ranks == (2, 2)
    assert value.round({"r1": 2}).ranks == (2, 6)
    assert value.round(100).ranks == value.ranks


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("eps", [0.4, 0.05])
def test_formats_with_loops_keep_eps(name, eps):
    value = random_format(name, (5, 4, 6), 3, rng=1)
    value = inner(value)
    rounded = value.round(eps=eps)
    assert true_error(value.to_dense(), rounded.to_dense()) <= eps * (1 + 1e-6)
    assert type(rounded) is type(value)
    assert rounded.n_params <= value.n_params
    assert max(value.round(2).ranks) <= 2


def test_a_loop_that_would_not_fit_the_memory_is_refused():
    with pytest.raises(MemoryLimitError, match="GiB"):
        random_format("tr", (1000,) * 5, 2, rng=0).round(eps=0.1)


def test_networks_that_are_trees():
    value = random_format("ia,ajb,bkc,cl->ijkl", (4, 5, 6, 3), 2, rng=0)
    assert (value + value).round(eps=1e-10).ranks == (2, 2, 2)


def test_padding_counts_for_nothing():
    x = torch.randn(7, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value = tk.decompose(x, "kron", eps=0.0).tensor
    assert isinstance(value, tk.Tensorized)
    assert true_error(x, value.round(eps=0.3).to_dense()) <= 0.3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", TREES)
def test_every_node_can_be_the_centre(name, dtype):
    value = inner(random_format(name, (4, 5, 6, 3), 3, dtype=dtype, rng=0))
    dense, noise = value.to_dense(), 100 * torch.finfo(dtype).eps
    for centre in (*range(len(value.tensors())), -1):
        turned = operations.orthogonalize(value, centre)
        assert true_error(dense, turned.to_dense()) < noise
        assert float(turned.tensors()[centre].norm()) == pytest.approx(float(dense.norm()), rel=noise)


def test_left_and_right_orthogonal_trains():
    value = random_format("tt", (4, 5, 6), 3, rng=0)
    left, right = operations.orthogonalize(value, -1), operations.orthogonalize(value, 0)
    for core in left.cores[:-1]:
        flat = core.flatten(0, 1)
        assert torch.allclose(flat.mT @ flat, torch.eye(flat.shape[1], dtype=flat.dtype))
    for core in right.cores[1:]:
        flat = core.flatten(1, 2)
        assert torch.allclose(flat @ flat.mT, torch.eye(flat.shape[0], dtype=flat.dtype))


@pytest.mark.parametrize("name", TREES)
def test_norms_are_exact_where_terms_cancel(name):
    a = random_format(name, (4, 4, 4), 2, rng=0)
    small = 1e-11 * random_format(name, (4, 4, 4), 1, rng=1)
    difference = inner((a + small) - a)
    assert float(difference.norm()) == pytest.approx(float(small.to_dense().norm()), rel=1e-3)


def test_requests_that_say_nothing():
    value = random_format("tt", (4, 5), 2, rng=0)
    with pytest.raises(OptionError, match="rank= or eps="):
        value.round()
    for eps in (-1.0, float("nan"), "small", True):
        with pytest.raises(OptionError, match="eps"):
            value.round(eps=eps)
    with pytest.raises(RankError):
        value.round(0)
    with pytest.raises(OptionError, match="centre"):
        operations.orthogonalize(value, 7)
    with pytest.raises(OptionError, match="loops"):
        operations.orthogonalize(random_format("tr", (4, 5, 6), 2, rng=0))
