"""Batches of arrays at equal ranks, against the loop."""

import pytest
import torch

import tnkit as tk
from tests.properties.data import DTYPES, array, true_error


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "method"), [("tt", "tt_svd"), ("tucker", "st_hosvd")])
@pytest.mark.parametrize("shape", [(4, 5, 6), (3, 2, 4, 5), (7, 3), (5,), (2, 30, 4)])
def test_against_the_loop(name, method, shape, dtype):
    x = torch.stack([(k + 1) * array(shape, kind, k, dtype) for k, kind in enumerate(("noise", "smooth", "planted"))])
    batch = tk.decompose_batch(x, name, rank=2)
    dense = batch.to_dense()
    floor = 200 * torch.finfo(dtype).eps
    for k, item in enumerate(x):
        one = tk.decompose(item, name, rank=2, method=method)
        assert batch[k].ranks == batch.ranks
        assert batch[k].shape == shape
        true = true_error(item, batch[k].to_dense())
        assert true <= 1.1 * one.rel_error + floor
        assert float(batch.rel_errors[k]) == pytest.approx(true, rel=0.01, abs=floor)
        assert true_error(dense[k], batch[k].to_dense()) < floor


@pytest.mark.parametrize("name", ["tt", "tucker"])
def test_vmap_over_the_batch(name):
    x = torch.stack([array((4, 5, 6), "planted", k) for k in range(3)])
    batch = tk.decompose_batch(x, name, rank=2)
    assert len(batch) == 3
    norms = torch.func.vmap(lambda value: value.norm())(batch.stacked)
    assert torch.allclose(norms, torch.stack([batch[k].norm() for k in range(3)]))


@pytest.mark.parametrize("name", ["tt", "tucker"])
def test_zeros_scales_and_gradients(name):
    x = torch.stack([array((4, 5, 6), "planted", 1) * s for s in (0.0, 1e-200, 1e200)])
    batch = tk.decompose_batch(x, name, rank=4)
    assert batch.rel_errors[0] == 0
    for k in (1, 2):
        assert true_error(x[k], batch[k].to_dense()) <= 0.01
    y = array((2, 3, 4, 3), "noise", 1).requires_grad_()
    tk.decompose_batch(y, name, rank=2).to_dense().square().sum().backward()
    assert y.grad is not None
    assert bool(torch.isfinite(y.grad).all())


def test_requests_that_cannot_be():
    with pytest.raises(tk.OptionError, match="'tt' and 'tucker'"):
        tk.decompose_batch(torch.ones(2, 3, 4), "cp", rank=2)
    with pytest.raises(tk.ShapeError, match="batch axis"):
        tk.decompose_batch(torch.ones(3), "tt", rank=2)
    with pytest.raises(tk.RankError):
        tk.decompose_batch(torch.ones(2, 3, 4), "tt", rank=(9,))
