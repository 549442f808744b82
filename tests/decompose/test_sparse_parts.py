"""Products, contractions and splits of coordinates against those of the dense array."""

import pytest
import torch

from tests.decompose.sparse_data import sparse_array
from tnkit.decompose.mttkrp import CPLeastSquares
from tnkit.decompose.sparse_contract import SparseContraction, unfolding
from tnkit.decompose.sparse_mttkrp import SparseCP
from tnkit.linalg import BlockSparse, block_sparse, leading_part, least_rank
from tnkit.rng import generator, normal
from tnkit.sources import SparseTensor


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(6,), (5, 6), (5, 6, 7), (3, 4, 5, 6), (3, 2, 4, 2, 3), (2,) * 7])
def test_products_and_sweeps_are_those_of_the_dense_array(shape, dtype):
    x = sparse_array(shape, 3, dtype=dtype)
    norm = float(torch.linalg.vector_norm(x))
    factors = [normal((n, 3), x, generator(k)) for k, n in enumerate(shape)]
    sparse, dense = SparseCP(SparseTensor.from_dense(x), norm), CPLeastSquares(x, norm)
    found, wanted = {}, {}
    sparse.products.sides(list(factors), found.__setitem__)
    dense._sides([f.mT.contiguous() for f in factors], wanted.__setitem__)
    for k in range(len(shape)):
        torch.testing.assert_close(found[k], wanted[k].mT)
    tensors = (torch.ones(3, dtype=dtype), *factors)
    assert sparse.error(tensors) == pytest.approx(dense.error(tensors), rel=1e-9)
    if len(shape) > 1:
        for _ in range(3):
            tensors, error = sparse.sweep(tensors)
        assert error == pytest.approx(dense.error(tensors), rel=1e-6, abs=1e-7)


def test_groups_of_modes_are_shared():
    gen = generator(0)
    indices = torch.stack([torch.randint(0, n, (3000,), generator=gen) for n in (6, 500, 5, 400)], dim=1)
    x = SparseTensor(indices, torch.rand(3000, generator=gen, dtype=torch.float64), (6, 500, 5, 400))
    terms = SparseCP(x, 1.0)
    assert [item.group.modes for item in terms.products.scattered] == [(2, 0), (3,), (1,)]
    factors = [normal((n, 2), x.values, gen) for n in x.shape]
    found = {}
    terms.products.sides(list(factors), found.__setitem__)
    for k in range(4):
        product = x.values[:, None]
        for j in range(4):
            product = product * (factors[j][x.indices[:, j]] if j != k else 1.0)
        wanted = torch.zeros(x.shape[k], 2, dtype=torch.float64).index_add_(0, x.indices[:, k], product)
        torch.testing.assert_close(found[k], wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(6,), (5, 6), (5, 6, 7), (3, 4, 5, 6)])
def test_contractions_are_those_of_the_dense_array(shape, dtype):
    x = sparse_array(shape, 3, dtype=dtype)
    factors = [normal((n, 2 + k), x, generator(k)) for k, n in enumerate(shape)]
    wanted = x
    for k, f in enumerate(factors):
        wanted = torch.tensordot(f.mH, wanted, dims=([1], [k])).movedim(0, k)
    torch.testing.assert_close(SparseContraction(SparseTensor.from_dense(x)).core(factors), wanted)
    for k in range(len(shape)):
        dense = unfolding(SparseTensor.from_dense(x), k).dense()
        flat = x.movedim(k, 0).reshape(shape[k], -1)
        torch.testing.assert_close(dense @ dense.mH, flat @ flat.mH)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize(("b", "count"), [(1, 300), (3, 200), (3, 2500)])
@pytest.mark.parametrize("small", [True, False])
def test_leading_parts(b, count, small, dtype, monkeypatch):
    if not small:
        monkeypatch.setattr(block_sparse, "SMALL", 0)
    gen = generator(0)
    places = torch.randperm(60 * 50, generator=gen)[:count].sort().values
    blocks = normal((count, b), torch.empty(0, dtype=dtype), gen)
    a = BlockSparse(places // 50, places % 50, blocks, 60, 50)
    dense = a.dense()
    torch.testing.assert_close(torch.cat(list(a.columns(7)), dim=1), dense)
    right, left = normal((50, 4), dense, gen), normal((60 * b, 4), dense, gen)
    torch.testing.assert_close(a.apply(right), dense @ right)
    torch.testing.assert_close(a.adjoint(left), dense.mH @ left)
    norm2 = float(torch.linalg.vector_norm(dense)) ** 2
    s2 = torch.linalg.svdvals(dense).square()
    for rank, tail2 in ((5, None), (50, 0.01 * norm2), (50, 0.0), (3, 0.01 * norm2)):
        part = leading_part(a, max_rank=rank, tail2=tail2, norm2=norm2, gen=gen)
        if tail2 is not None:
            assert least_rank(a, tail2=tail2, norm2=norm2) <= int((s2.flip(0).cumsum(0) > tail2).sum())
        true = float(torch.linalg.vector_norm(dense - part.basis @ part.rest)) ** 2
        assert abs(part.lost2 - true) <= 1e-9 * norm2
        assert true <= part.lost2 + part.noise2 + 1e-9 * part.lost2
        assert part.rest.shape[0] <= rank
        if tail2 and rank == 50:
            assert true <= tail2
            assert part.rest.shape[0] <= int((torch.flip(torch.cumsum(s2.flip(0), 0), [0]) > tail2).sum()) + 3
        if tail2 is None:
            assert true <= 1.02 * float(s2[rank:].sum())
        eye = torch.eye(part.basis.shape[1], dtype=dtype)
        torch.testing.assert_close(part.basis.mH @ part.basis, eye, atol=1e-10, rtol=0)


# --- against the dense path -----------------------------------------------------------------------------------------
