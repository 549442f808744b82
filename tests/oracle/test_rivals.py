"""Property 16: at equal ranks the error is at most 1.01 times the best of the other libraries that are installed."""

from __future__ import annotations

import statistics
import warnings

import numpy as np
import pytest
import torch

import tnkit as tk
from tests.properties.data import array, true_error

CASES = [
    ((12, 10, 9, 8), "planted", 2),
    ((12, 10, 9, 8), "noise", 4),
    ((20, 21, 22), "smooth", 3),
    ((6,) * 5, "noise", 3),
]


def dense_error(x: torch.Tensor, other: np.ndarray) -> float:
    return true_error(x, torch.from_numpy(np.ascontiguousarray(other)))


def tensorly_tt(x: torch.Tensor, ranks: tuple[int, ...]) -> float:
    tl = pytest.importorskip("tensorly")
    from tensorly.decomposition import tensor_train

    return dense_error(x, tl.tt_to_tensor(tensor_train(x.numpy(), [1, *ranks, 1])))


def quimb_tt(x: torch.Tensor, ranks: tuple[int, ...]) -> float:
    qtn = pytest.importorskip("quimb.tensor")
    train = qtn.MatrixProductState.from_dense(x.numpy(), dims=x.shape, max_bond=max(ranks), cutoff=0.0)
    return dense_error(x, train.to_dense().reshape(x.shape))


def torchtt_tt(x: torch.Tensor, ranks: tuple[int, ...]) -> float:
    torchtt = pytest.importorskip("torchtt")
    return true_error(x, torchtt.TT(x, rmax=[1, *ranks, 1], eps=0.0).full())


def tntorch_tt(x: torch.Tensor, ranks: tuple[int, ...]) -> float:
    tntorch = pytest.importorskip("tntorch")
    return true_error(x, tntorch.Tensor(x, ranks_tt=max(ranks)).torch())


@pytest.mark.parametrize("rival", [tensorly_tt, quimb_tt, torchtt_tt, tntorch_tt])
@pytest.mark.parametrize(("shape", "kind", "rank"), CASES)
def test_tt_is_no_worse(rival, shape, kind, rank):
    x = array(shape, kind, 0)
    fit = tk.decompose(x, "tt", rank=rank)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = rival(x, fit.ranks)
    assert true_error(x, fit.tensor.to_dense()) <= 1.01 * other


def tensorly_tucker(x: torch.Tensor, ranks: tuple[int, ...]) -> float:
    tl = pytest.importorskip("tensorly")
    from tensorly.decomposition import tucker

    return dense_error(x, tl.tucker_to_tensor(tucker(x.numpy(), rank=list(ranks), n_iter_max=50)))


def pyttb_tucker(x: torch.Tensor, ranks: tuple[int, ...]) -> float:
    pyttb = pytest.importorskip("pyttb")
    found = pyttb.hosvd(pyttb.tensor(x.numpy()), tol=1e-12, ranks=np.array(ranks), verbosity=0, sequential=True)
    return dense_error(x, found.full().data)


@pytest.mark.parametrize(("rival", "method"), [(tensorly_tucker, "hooi"), (pyttb_tucker, "auto")])
@pytest.mark.parametrize(("shape", "kind", "rank"), CASES)
def test_tucker_is_no_worse(rival, method, shape, kind, rank):
    x = array(shape, kind, 0)
    fit = tk.decompose(x, "tucker", rank=rank, method=method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = rival(x, fit.ranks)
    assert true_error(x, fit.tensor.to_dense()) <= 1.01 * other


@pytest.mark.parametrize(("shape", "kind", "rank"), [((12, 11, 10), "smooth", 3), ((8, 9, 10), "noise", 4)])
def test_cp_is_no_worse_in_the_median(shape, kind, rank):
    tl = pytest.importorskip("tensorly")
    from tensorly.decomposition import parafac

    x = array(shape, kind, 0)
    ours = [tk.decompose(x, "cp", rank=rank, rng=seed).rel_error for seed in range(5)]
    theirs = []
    for seed in range(5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = parafac(x.numpy(), rank, n_iter_max=100, init="random", random_state=seed)
        theirs.append(dense_error(x, tl.cp_to_tensor(found)))
    assert statistics.median(ours) <= 1.01 * statistics.median(theirs)


@pytest.mark.parametrize(("shape", "kind", "rank"), [((8, 9, 10), "smooth", 2), ((6, 6, 6, 6), "noise", 2)])
def test_ring_is_no_worse_in_the_median(shape, kind, rank):
    tl = pytest.importorskip("tensorly")
    from tensorly.decomposition import tensor_ring_als

    x = array(shape, kind, 0)
    ours = [tk.decompose(x, "tr", rank=rank, rng=seed).rel_error for seed in range(5)]
    theirs = []
    for seed in range(5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = tensor_ring_als(x.numpy(), [rank] * (x.ndim + 1), n_iter_max=100, random_state=seed)
        theirs.append(dense_error(x, tl.tr_to_tensor(found)))
    assert statistics.median(ours) <= 1.01 * statistics.median(theirs)
