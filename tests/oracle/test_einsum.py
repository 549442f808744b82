"""Every format's dense value against numpy.einsum of its published equation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnkit as tk
from tnkit.testing.strategies import dtypes, formats

#: The equation in the order of `tensors()`, over shapes of that order.
CASES = {
    "tt": ("zia,ajb,bky->ijk", (4, 5, 3)),
    "tr": ("pia,ajb,bkp->ijk", (4, 5, 3)),
    "tucker": ("abc,ia,jb,kc->ijk", (4, 5, 3)),
    "cp": ("r,ir,jr,kr->ijk", (4, 5, 3)),
    "btd": ("tabc,tia,tjb,tkc->ijk", (4, 5, 3)),
    "lowrank": ("or,ri->oi", (4, 5)),
    "btt": ("jlkp,kjpi->ljki", (4, 2, 3, 5)),
    "monarch": ("jlkp,kjpi->ljki", (4, 2, 3, 5)),
    "kron": ("tap,tbq->abpq", (4, 2, 3, 5)),
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=8)
@given(data=st.data())
def test_equations(name, data):
    equation, shape = CASES[name]
    value = data.draw(formats(name, shape=shape, dtype=dtypes()).filter(lambda v: v.view() is None))
    dense = np.einsum(equation, *(t.numpy() for t in value.tensors()))
    tolerance = 1e-4 if value.dtype in (torch.float32, torch.complex64) else 1e-10
    np.testing.assert_allclose(np.asarray(value), dense, rtol=tolerance, atol=tolerance)


def test_blast_is_a_matrix_of_blocks():
    """W_ij = U_i diag(s_ij) V_jᵀ, padded where a side does not divide."""
    value = tk.random_format(tk.BLASTSpec(blocks=(2, 3)), (7, 8), rank=3, rng=0)
    u, s, v = (t.numpy() for t in value.tensors())
    rows = [np.concatenate([u[i] @ np.diag(s[i, j]) @ v[j].T for j in range(3)], 1) for i in range(2)]
    np.testing.assert_allclose(np.asarray(value), np.concatenate(rows)[:7, :8], atol=1e-12)


def test_a_kronecker_sum_is_numpys():
    value = tk.random_format(tk.KronSpec(left=(2, 4)), (6, 12), rank=3, rng=0)
    a, b = (t.numpy() for t in value.tensors())
    np.testing.assert_allclose(np.asarray(value), sum(np.kron(x, y) for x, y in zip(a, b, strict=True)), atol=1e-12)


def test_a_tubal_product_is_a_product_of_slices_in_the_fourier_domain():
    value = tk.random_format("tubal", (4, 5, 6, 3), rank=2, rng=0)
    left, right = (np.fft.fftn(t.numpy(), axes=(2, 3)) for t in value.tensors())
    dense = np.fft.ifftn(np.einsum("irst,rjst->ijst", left, right), axes=(2, 3))
    np.testing.assert_allclose(np.asarray(value), dense.real, atol=1e-12)


def test_a_tubal_product_is_a_circular_convolution():
    value = tk.random_format("tubal", (3, 4, 5), rank=2, rng=1)
    left, right = (t.numpy() for t in value.tensors())
    dense = np.zeros((3, 4, 5))
    for s in range(5):
        for t in range(5):
            dense[:, :, (s + t) % 5] += left[:, :, s] @ right[:, :, t]
    np.testing.assert_allclose(np.asarray(value), dense, atol=1e-12)


def test_a_tree():
    """(0 (1 2)): leaves first, transfer tensors above them."""
    value = tk.random_format(tk.HTSpec("linear"), (3, 4, 5), rank=2, rng=0)
    root, zero, inner, one, two = (t.numpy() for t in value.tensors())
    dense = np.einsum("abz,ia,cdb,jc,kd->ijk", root, zero, inner, one, two)
    np.testing.assert_allclose(np.asarray(value), dense, atol=1e-12)


def test_a_tt_matrix_interleaved_and_split():
    value = tk.random_format("ttm", (2, 3, 4, 5), rank=2, rng=0)
    np.testing.assert_allclose(
        np.asarray(value), np.einsum("zmpb,bnqy->mnpq", *(t.numpy() for t in value.tensors())), atol=1e-12
    )
    split = tk.random_format(tk.TTMatrixSpec(order="split"), (2, 3, 4, 5), rank=2, rng=0)
    np.testing.assert_allclose(
        np.asarray(split), np.einsum("zma,anb,bpc,cqy->mnpq", *(t.numpy() for t in split.tensors())), atol=1e-12
    )
