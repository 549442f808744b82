"""The reduced QR: Q orthonormal to rounding in every precision, however tall."""

import pytest
import torch
from torch import Tensor

from tnkit.linalg import reduced_qr, split


def decaying(m: int, n: int, dtype: torch.dtype) -> Tensor:
    """Rows that get smaller: the case in which long sums in single precision lose most."""
    a = torch.randn(m, n, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return a * torch.exp(-5 * (torch.linspace(0, 1, m)[:, None] + torch.linspace(0, 1, n))).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(40_000, 24), (1500, 90), (90, 1500), (5, 5), (3000, 1)])
def test_orthonormal_and_exact(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    a = decaying(*shape, dtype)
    q, r = reduced_qr(a)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    eps, k = torch.finfo(dtype).eps, min(shape)
    assert q.dtype == r.dtype == dtype
    assert (q.to(wide).mH @ q.to(wide) - torch.eye(k)).norm() <= 10 * eps * k
    assert (q.to(wide) @ r.to(wide) - a.to(wide)).norm() <= 40 * eps * a.norm()
    assert r.tril(-1).abs().max() <= 10 * eps * a.norm()


def test_batches_dependent_columns_and_zeros() -> None:
    batch = torch.randn(3, 2000, 4)
    q, r = reduced_qr(batch)
    assert torch.allclose(q @ r, batch, atol=1e-4)
    for a in (torch.zeros(3000, 4), torch.ones(3000, 4), torch.zeros(3000, 0)):
        q, r = reduced_qr(a)
        assert (q.double().mT @ q.double() - torch.eye(a.shape[1])).norm() <= 1e-6
        assert (q.double() @ r.double() - a).norm() <= 1e-6 * (a.norm() + 1e-30)


@pytest.mark.parametrize("driver", ["gram", "qr", "svd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_splits_of_tall_matrices_tell_their_error(driver: str, dtype: torch.dtype) -> None:
    a = decaying(45_000, 60, dtype)
    for rank in (60, 40):
        part = split(a, max_rank=rank, driver=driver, rng=0)
        wide = torch.complex128 if dtype.is_complex else torch.float64
        true = float((a.to(wide) - part.basis.to(wide) @ part.rest.to(wide)).norm() / a.to(wide).norm())
        told = part.discarded2**0.5 / float(a.to(wide).norm())
        assert abs(true - told) <= 0.01 * told + 3e-6
