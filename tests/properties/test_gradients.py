"""Property 11: gradients through to_dense, and through decompose where singular values coincide."""

from __future__ import annotations

import pytest
import torch

import tnkit as tk
from tests.properties.data import array
from tnkit.formats import random_format
from tnkit.registry import FORMATS


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", FORMATS.names())
def test_gradients_through_to_dense(name, dtype):
    value = random_format(name, (3, 4, 2), 2, dtype=dtype, rng=0).requires_grad()
    assert torch.autograd.gradcheck(lambda *ts: value.with_tensors(ts).to_dense(), value.tensors())


def coincident(shape: tuple[int, ...]) -> torch.Tensor:
    """An array in which singular values of every unfolding coincide, and which is not a fixed point of anything."""
    x = torch.zeros(shape, dtype=torch.float64)
    for k in range(min(shape)):
        x[(k,) * len(shape)] = 3.0 if k < 2 else 1.0
    return x


@pytest.mark.parametrize("name", ["tt", "tucker", "lowrank", "ht"])
def test_gradients_where_singular_values_coincide(name):
    x = coincident((4, 4, 4)).requires_grad_()
    dense = tk.decompose(x, name, rank=2).tensor.to_dense()
    weights = array((4, 4, 4), "noise", 0)
    (gradient,) = torch.autograd.grad((dense * weights).sum(), x)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("name", ["tt", "lowrank", "ht", "tucker"])
def test_gradcheck_through_decompose(name):
    x = (coincident((3, 4, 3)) + 1e-2 * array((3, 4, 3), "noise", 1)).requires_grad_()
    method = {"tucker": "st_hosvd"}.get(name, "auto")

    def through(a):
        return tk.decompose(a, name, rank=2, method=method).tensor.to_dense()

    assert torch.autograd.gradcheck(through, (x,), eps=1e-6, atol=1e-5)
