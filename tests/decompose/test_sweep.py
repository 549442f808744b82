"""The machinery of the iterative methods: least-squares problems, derivatives, changed ranks."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tnkit.decompose.gauss_newton import newton_start, newton_step
from tnkit.decompose.mttkrp import CPLeastSquares
from tnkit.decompose.resize import grown, shrunk
from tnkit.decompose.sweep import LeastSquares
from tnkit.formats import CPSpec, as_spec, random_format, random_tensors, resolve_ranks
from tnkit.network import contract
from tnkit.rng import generator

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
CASES = [
    ("tt", (4, 5, 3)),
    ("tr", (4, 3, 3, 2)),
    ("cp", (4, 5, 3)),
    ("tucker", (4, 5, 3)),
    ("ht", (3, 4, 2, 3)),
    ("btd", (4, 5, 3)),
    ("btt", (6, 6)),
    ("blast", (8, 8)),
    ("kron", (6, 6)),
    ("tubal", (4, 3, 3)),
    ("ia,iaj,jb,kb->ijk", (3, 4, 5)),
    ("iab,jac,kbc->ijk", (3, 4, 5)),
    ("ab,bic,cja,kb->ijk", (3, 4, 5)),
]


def problem(format, shape, dtype=torch.float64, rank=2, seed=0):
    layout = as_spec(format).layout(shape)
    ranks = resolve_ranks(layout, rank)
    x = layout.tensorize(torch.randn(shape, dtype=dtype, generator=generator(seed)))
    tensors = random_tensors(layout, ranks, x, generator(seed + 1))
    return LeastSquares(x, layout.topology, float(torch.linalg.vector_norm(x))), tensors, layout


@pytest.mark.parametrize(("format", "shape"), CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sweep_never_raises_the_error_and_reports_it(format, shape, dtype):
    network, tensors, _ = problem(format, shape, dtype)
    errors = []
    for _ in range(6):
        tensors, error = network.sweep(tensors)
        errors.append(error)
        assert all(t.dtype == dtype for t in tensors)
        assert error == pytest.approx(network.error(tensors), rel=1e-2, abs=1e-6)
    slack = 1e-3 if dtype in (torch.float32, torch.complex64) else 1e-7
    assert all(b <= a * (1 + slack) + 1e-6 for a, b in itertools.pairwise(errors))


@pytest.mark.parametrize(("format", "shape"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_derivative_is_that_of_the_dense_tensor(format, shape, dtype):
    network, tensors, layout = problem(format, shape, dtype)
    slope, curvature, _ = network.linearise(tensors)
    columns = []
    for k, t in enumerate(tensors):
        for index in range(t.numel()):
            unit = torch.zeros(t.numel(), dtype=dtype)
            unit[index] = 1
            parts = [unit.reshape(t.shape) if j == k else other for j, other in enumerate(tensors)]
            columns.append(contract(layout.topology, parts).reshape(-1))
    jacobian = torch.stack(columns, dim=1)
    rest = network.x.reshape(-1) - contract(layout.topology, tensors).reshape(-1)
    torch.testing.assert_close(curvature, jacobian.mH @ jacobian)
    torch.testing.assert_close(slope, jacobian.mH @ rest)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (3, 1, 4), (3, 4, 2, 3), (2, 3, 2, 2, 2)])
def test_the_sweeps_and_the_derivative_of_cp_are_the_general_ones(shape, dtype):
    layout = CPSpec().layout(shape)
    x = torch.randn(shape, dtype=dtype, generator=generator(0))
    norm = float(torch.linalg.vector_norm(x))
    tensors = random_tensors(layout, (3,), x, generator(1))
    own, general = CPLeastSquares(x, norm), LeastSquares(x, layout.topology, norm)
    mine, theirs = tensors, tensors
    for _ in range(3):
        mine, a = own.sweep(mine)
        theirs, b = general.sweep(theirs)
    assert a == pytest.approx(b, rel=2e-2, abs=1e-7)
    assert own.error(mine) == pytest.approx(general.error(mine), rel=1e-9, abs=1e-12)
    step = newton_step(own, newton_start(own, mine))
    assert step.error <= own.error(mine)
    _, curvature, _ = own.linearise(mine)
    assert torch.linalg.eigvalsh(curvature).min() > -1e-10 * torch.linalg.eigvalsh(curvature).max()


def test_products_of_all_columns_need_not_fit():
    x = torch.randn(3, 40, 2, dtype=torch.float64, generator=generator(0))
    layout = CPSpec().layout(x.shape)
    tensors = random_tensors(layout, (60,), x, generator(1))
    own = CPLeastSquares(x, float(x.norm()))
    for _ in range(3):
        tensors, error = own.sweep(tensors)
    assert error == pytest.approx(own.error(tensors), rel=1e-2, abs=1e-8)


@given(st.sampled_from(CASES), st.integers(1, 4), st.integers(0, 50))
def test_longer_bonds_leave_the_tensor_as_it_is(case, rank, seed):
    _, tensors, layout = problem(*case, rank=2, seed=seed)
    ranks = {
        b: max(r, min(rank, c)) for b, r, c in zip(layout.bonds, layout.ranks_of(tensors), layout.caps, strict=True)
    }
    more = grown(layout.topology, tensors, ranks, generator(seed))
    assert layout.ranks_of(more) == tuple(ranks.values())
    torch.testing.assert_close(contract(layout.topology, more), contract(layout.topology, tensors))
    back = shrunk(layout.topology, more, dict(zip(layout.bonds, layout.ranks_of(tensors), strict=True)))
    assert layout.ranks_of(back) == layout.ranks_of(tensors)
    if all(len(layout.topology.nodes_of(b)) == 2 for b in layout.bonds):
        torch.testing.assert_close(contract(layout.topology, back), contract(layout.topology, tensors))


@pytest.mark.parametrize(("format", "shape"), [("tr", (6, 6, 6, 6)), ("cp", (6, 6, 6)), ("btd", (6, 6, 6))])
def test_gauss_newton_converges_quadratically_near_a_solution(format, shape):
    exact = random_format(format, shape, 2, rng=3)
    x = exact.to_dense()
    network = LeastSquares(x, exact.topology(), float(x.norm()))
    state = newton_start(
        network, [t + 0.01 * torch.randn(t.shape, dtype=t.dtype, generator=generator(5)) for t in exact.tensors()], 1e-6
    )
    for _ in range(6):
        state = newton_step(network, state)
    assert state.error < 1e-13


@pytest.mark.gpu
@pytest.mark.parametrize(("format", "shape"), CASES)
def test_sweeps_stay_on_the_device(format, shape):
    network, tensors, _ = problem(format, shape)
    on_gpu = LeastSquares(network.x.cuda(), as_spec(format).layout(shape).topology, network.norm)
    moved, error = on_gpu.sweep([t.cuda() for t in tensors])
    assert all(t.is_cuda for t in moved)
    assert error == pytest.approx(network.sweep(tensors)[1], rel=1e-6, abs=1e-6)
