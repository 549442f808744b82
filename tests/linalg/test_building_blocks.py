import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tnkit.errors import OptionError, ShapeError
from tnkit.linalg import (
    apply_rows,
    count_sketch,
    energy,
    gram,
    khatri_rao,
    maxvol,
    orthonormal,
    project,
    residual_energy,
    solve_gram,
    sqrt_psd,
)
from tnkit.linalg.products import row_energies
from tnkit.linalg.sketch import twin_sketches

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def gaussian(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def wide(x: Tensor) -> Tensor:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def layouts(x: Tensor) -> list[Tensor]:
    """The same matrix in row order, column order, and with no unit stride."""
    return [x, x.mT.contiguous().mT, torch.stack([x, x], -1)[..., 1]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 5), (250, 900), (1, 5000), (900, 1), (7, 9000)])
def test_products(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x = gaussian(*shape, dtype=dtype)
    q, b = gaussian(shape[0], 2, dtype=dtype, seed=1), gaussian(2, shape[1], dtype=dtype, seed=2)
    tol = 1e-5 if dtype in (torch.float32, torch.complex64) else 1e-13
    for a in layouts(x):
        w = wide(a)
        total = float(w.norm() ** 2)
        assert energy(a) == pytest.approx(total, rel=1e-7 if tol > 1e-6 else 1e-14)
        assert energy(a.mT) == pytest.approx(total, rel=1e-7 if tol > 1e-6 else 1e-14)
        rows = torch.linalg.vector_norm(w, dim=1) ** 2
        assert torch.allclose(row_energies(a), rows, rtol=1e-6 if tol > 1e-6 else 1e-13)
        for precise in (False, True):
            g = gram(a, precise=precise)
            assert g.dtype == w.dtype
            assert (g - w @ w.mH).norm() <= (1e-13 if precise else min(tol, 1e-6)) * total
            assert torch.equal(g, g.mH)
        assert torch.allclose(wide(project(q, a)), wide(q).mH @ w, rtol=tol, atol=tol * total**0.5)
        assert torch.allclose(wide(apply_rows(a, b)), w @ wide(b).mH, rtol=tol, atol=10 * tol * total**0.5)
        exact = float((w - wide(q) @ wide(b)).norm() ** 2)
        assert residual_energy(a, q, b) == pytest.approx(exact, rel=1e-5)


def test_energy_of_a_tensor_and_of_nothing() -> None:
    assert energy(torch.ones(3, 4, 5)) == pytest.approx(60, rel=1e-14)
    assert energy(torch.ones(0, 4)) == 0
    big = torch.full((1 << 22,), 0.1)
    assert energy(big) == pytest.approx(float(torch.tensor(0.1).double() ** 2) * (1 << 22), rel=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sketch_keeps_energy_on_average(dtype: torch.dtype) -> None:
    x = gaussian(6, 1000, dtype=dtype)
    for a in layouts(x):
        gen = torch.Generator().manual_seed(0)
        mean = sum(gram(count_sketch(a, 70, gen)) for _ in range(200)) / 200
        assert (mean - wide(a) @ wide(a).mH).norm() <= 0.1 * float(wide(a).norm() ** 2)
    assert count_sketch(x, 1000, gen) is x


def test_sketch_is_linear_and_takes_every_column_once() -> None:
    for n, width in [(10, 3), (100, 7), (64, 64), (65, 64), (9, 1)]:
        y = count_sketch(torch.eye(n), width, torch.Generator().manual_seed(n))
        if width < n:
            assert y.shape == (n, width)
        assert (y.abs().sum(1) == 1).all()
        assert (y.abs().sum(0) <= -(-n // width)).all() or width < n


def test_twin_sketches_are_independent() -> None:
    n, width = 2000, 200
    y, z = twin_sketches(torch.eye(n), width, torch.Generator().manual_seed(0))
    for sketch in (y, z):
        assert (sketch.abs().sum(1) == 1).all()
        assert abs(float(sketch.sum())) < 5 * n**0.5  # signs
    assert abs(float((y.sum(1) * z.sum(1)).sum())) < 5 * n**0.5  # the same sign half the time
    meet = [(s.abs() @ s.abs().T).triu(1) for s in (y, z)]
    each = [float(m.sum()) for m in meet]
    both = float((meet[0] * meet[1]).sum())
    assert both < 3 * each[0] * each[1] / (n * (n - 1) / 2)


def test_lstsq_plain_batched_ridge() -> None:
    a = gaussian(4, 9, 5)
    g = a.mT @ a
    x = gaussian(4, 5, 3, seed=1)
    assert torch.allclose(solve_gram(g, g @ x), x)
    assert torch.allclose(solve_gram(g[0], g[0] @ x[0]), x[0])
    eye = torch.eye(5, dtype=torch.float64)
    assert torch.allclose(solve_gram(g, x, 0.5), torch.linalg.solve(g + 0.5 * eye, x))
    ridge = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    assert torch.allclose(solve_gram(g, x, ridge), torch.linalg.solve(g + ridge[:, None, None] * eye, x))
    assert solve_gram(torch.zeros(0, 0), torch.zeros(0, 2)).shape == (0, 2)
    with pytest.raises(ShapeError, match="solve_gram"):
        solve_gram(eye, torch.ones(4, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_lstsq_singular(dtype: torch.dtype, rank: int) -> None:
    a = gaussian(rank, 6, dtype=dtype)
    g = a.mH @ a
    rhs = g @ gaussian(6, 2, dtype=dtype, seed=1)
    x = solve_gram(torch.stack([g, torch.eye(6, dtype=dtype)]), torch.stack([rhs, rhs]))
    assert x.isfinite().all()
    epsilon = torch.finfo(dtype).eps
    assert (g @ x[0] - rhs).norm() <= 1e4 * epsilon * max(float(rhs.norm()), 1e-300)
    assert torch.allclose(x[1], rhs, rtol=1e-3 if epsilon > 1e-8 else 1e-9)


def test_lstsq_gradient() -> None:
    a, x = gaussian(7, 3).requires_grad_(), gaussian(3, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, x: solve_gram(a.mT @ a, x, 0.1), (a, x))


@pytest.mark.parametrize("dtype", DTYPES)
@given(m=st.integers(1, 60), k=st.integers(0, 8), rank=st.integers(0, 8))
def test_orthonormal(dtype: torch.dtype, m: int, k: int, rank: int) -> None:
    k = min(m, k)
    a = gaussian(m, rank, dtype=dtype) @ gaussian(rank, k, dtype=dtype, seed=1)
    q = orthonormal(a)
    epsilon = torch.finfo(dtype).eps
    assert q.shape == (m, k)
    assert (q.mH @ q - torch.eye(k, dtype=dtype)).norm() <= 50 * epsilon * (1 + k)
    assert (a - q @ (q.mH @ a)).norm() <= 100 * epsilon * max(float(a.norm()), 1e-30)


def test_orthonormal_ill_conditioned() -> None:
    a = gaussian(200, 6) * 10.0 ** -torch.arange(0, 18, 3)
    q = orthonormal(a)
    assert (q.mT @ q - torch.eye(6)).norm() <= 1e-13
    with pytest.raises(ShapeError):
        orthonormal(a.mT)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sqrt_psd(dtype: torch.dtype) -> None:
    a = gaussian(3, 2, 5, dtype=dtype)
    g = a.mH @ a
    root = sqrt_psd(g)
    tol = 1e-4 if torch.finfo(dtype).eps > 1e-8 else 1e-7
    assert torch.allclose(root @ root, g, atol=tol)
    assert torch.allclose(root, root.mH, atol=tol)


def test_khatri_rao() -> None:
    a, b, c = gaussian(2, 3), gaussian(4, 3, seed=1), gaussian(5, 3, seed=2)
    dense = torch.einsum("ir,jr,kr->ijk", a, b, c)
    assert torch.allclose(khatri_rao([a, b, c]).sum(1).reshape(2, 4, 5), dense)
    assert khatri_rao([a]) is a
    with pytest.raises(ShapeError):
        khatri_rao([])
    with pytest.raises(ShapeError, match="one r"):
        khatri_rao([a, gaussian(4, 2)])


@given(n=st.integers(1, 60), r=st.integers(1, 8), rank=st.integers(1, 8), dtype=st.sampled_from(DTYPES))
def test_maxvol(n: int, r: int, rank: int, dtype: torch.dtype) -> None:
    r = min(n, r)
    a = gaussian(n, min(rank, r), dtype=dtype) @ gaussian(min(rank, r), r, dtype=dtype, seed=1)
    before = a.clone()
    rows, c = maxvol(a)
    assert torch.equal(a, before)
    assert len(set(rows.tolist())) == r
    epsilon = torch.finfo(dtype).eps
    assert c.abs().max() <= 1.05 + 1e3 * epsilon
    assert torch.equal(c[rows], torch.eye(r, dtype=dtype))
    assert (c @ a[rows] - a).norm() <= 1e3 * epsilon * float(a.norm())


def test_maxvol_messages() -> None:
    with pytest.raises(ShapeError, match="tall"):
        maxvol(torch.ones(2, 3))
    with pytest.raises(OptionError, match="tol"):
        maxvol(torch.ones(3, 1), tol=0.5)
