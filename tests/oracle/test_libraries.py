"""Values, norms and inner products against tensorly's reconstructions and quimb's contractions."""

import numpy as np
import pytest
import quimb.tensor as qtn
import tensorly
import torch
from tensorly import cp_tensor, tr_tensor, tt_matrix, tt_tensor, tucker_tensor

import tnkit as tk
from tnkit.interop.quimb import from_quimb

SHAPE = (4, 5, 3, 2)


def parts(value):
    return [t.numpy() for t in value.tensors()]


@pytest.fixture(autouse=True)
def numpy_backend():
    before = tensorly.get_backend()
    tensorly.set_backend("numpy")
    yield
    tensorly.set_backend(before)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("name", "shape", "rebuild"),
    [
        ("cp", SHAPE, lambda p: cp_tensor.cp_to_tensor((p[0], p[1:]))),
        ("tucker", SHAPE, lambda p: tucker_tensor.tucker_to_tensor((p[0], p[1:]))),
        ("tt", SHAPE, tt_tensor.tt_to_tensor),
        ("tr", SHAPE, tr_tensor.tr_to_tensor),
        ("ttm", (4, 5, 3, 2, 2, 3), tt_matrix.tt_matrix_to_tensor),
        ("tubal", (4, 5, 6), lambda p: block_circulant_product(*p)),
    ],
)
def test_tensorly_rebuilds_the_same(name, shape, rebuild, seed):
    value = tk.random_format(name, shape, rank=3, rng=seed)
    np.testing.assert_allclose(np.asarray(value), rebuild(parts(value)), atol=1e-11)


def block_circulant_product(left, right):
    """The t-product (tensorly has none), by the block-circulant matrix of its definition."""
    n = left.shape[2]
    circulant = np.block([[left[:, :, (i - j) % n] for j in range(n)] for i in range(n)])
    stacked = circulant @ np.concatenate([right[:, :, k] for k in range(n)])
    return np.stack(np.split(stacked, n), axis=2)


def test_tensorly_norms_and_inner_products():
    a, b = (tk.random_format("cp", SHAPE, rank=3, rng=seed) for seed in (0, 1))
    theirs = [(parts(v)[0], parts(v)[1:]) for v in (a, b)]
    assert float(a.norm()) == pytest.approx(float(cp_tensor.cp_norm(theirs[0])), rel=1e-10)
    dense = [cp_tensor.cp_to_tensor(v) for v in theirs]
    assert float(a.inner(b)) == pytest.approx(float(tensorly.tenalg.inner(*dense)), rel=1e-10)


def states(seed):
    """A random state of quimb's, and the same as a tensor train, put together here."""
    state = qtn.MPS_rand_state(6, bond_dim=4, phys_dim=3, dtype="complex128", seed=seed, normalize=False)
    cores = []
    for k in range(6):
        left = list(state[k - 1].bonds(state[k])) if k > 0 else []
        right = list(state[k].bonds(state[k + 1])) if k < 5 else []
        array = np.ascontiguousarray(state[k].transpose(*left, f"k{k}", *right).data)
        cores.append(torch.from_numpy(array.reshape(array.shape[0] if left else 1, 3, -1)))
    return state, tk.TT.from_cores(cores)


def test_quimb_contracts_the_same():
    state, tt = states(0)
    np.testing.assert_allclose(np.asarray(tt).reshape(-1, 1), state.to_dense(), atol=1e-12)


def test_quimb_overlaps_and_norms():
    (a, x), (b, y) = states(1), states(2)
    assert complex(x.inner(y)) == pytest.approx(complex(a.H @ b), rel=1e-10)
    assert float(x.norm()) == pytest.approx(float(a.norm()), rel=1e-10)


def test_quimb_sums_and_amplitudes():
    (a, x), (b, y) = states(1), states(2)
    total = a + b
    np.testing.assert_allclose(np.asarray(x + y).reshape(-1, 1), total.to_dense(), atol=1e-12)
    row = [0, 1, 2, 0, 1, 2]
    assert complex((x + y).at([row])[0]) == pytest.approx(complex(total.amplitude(row)), rel=1e-10)


def test_quimb_applies_operators_the_same():
    operator = qtn.MPO_rand(4, bond_dim=3, phys_dim=2, seed=3)
    state = qtn.MPS_rand_state(4, bond_dim=3, phys_dim=2, seed=4)
    product = from_quimb(operator) @ from_quimb(state)
    np.testing.assert_allclose(np.asarray(product).reshape(-1, 1), operator.apply(state).to_dense(), atol=1e-12)


def test_quimb_rounds_no_better():
    """At equal ranks, our rounding of a sum is at most 1 % above theirs."""
    (a, x), (b, y) = states(1), states(2)
    theirs = a + b
    dense = np.asarray(x + y).reshape(-1, 1)
    theirs.compress(max_bond=5, cutoff=0.0)
    ours = np.asarray((x + y).round(5)).reshape(-1, 1)
    assert np.linalg.norm(ours - dense) <= 1.01 * np.linalg.norm(theirs.to_dense() - dense)
