"""quimb's networks, both ways, hyperedges included."""

import numpy as np
import pytest
import quimb.tensor as qtn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnkit as tk
from tnkit.interop.quimb import from_quimb, to_quimb, to_quimb_network
from tnkit.registry import FORMATS
from tnkit.testing.strategies import dtypes, formats, shapes


def contracted(network, modes):
    """The dense array, contracted by quimb."""
    output = [f"k{k}" for k in range(modes)]
    tensor = network.contract(output_inds=output)
    return np.asarray(tensor.transpose(*output).data)


def equal_bits(a, b):
    assert type(a) is type(b)
    for s, t in zip(a.tensors(), b.tensors(), strict=True):
        assert s.dtype == t.dtype
        assert torch.equal(s, t)


@pytest.mark.parametrize("name", ["tt", "tr", "ttm"])
@settings(max_examples=10)
@given(data=st.data())
def test_chains_round_trip(name, data):
    shape = shapes(min_order=1, max_order=5, max_entries=200)
    value = data.draw(formats(name, shape=shape, dtype=dtypes()))
    value = value.format if isinstance(value, tk.Tensorized) else value
    backend = data.draw(st.sampled_from(["numpy", "torch"]))
    back = from_quimb(to_quimb(value, backend=backend))
    assert back.shape == value.shape
    if type(back) is type(value):
        equal_bits(back, value)
    else:
        assert isinstance(back, tk.Network)
    torch.testing.assert_close(back.to_dense(), value.to_dense())


@pytest.mark.parametrize("name", [*FORMATS.names(), "iax,jax,kx,ax->ijk", "ia,ja->ij", "ij,jk->ijk"])
@settings(max_examples=6)
@given(data=st.data())
def test_any_network_is_the_same_tensor_there(name, data):
    shape = {"ia,ja->ij": (3, 4)}.get(name, (3, 4, 2))
    if name in FORMATS:
        value = data.draw(formats(name, shape=shape, dtype=dtypes()))
    else:
        value = tk.random_format(name, shape, rank=2, rng=0)
    value = value.format if isinstance(value, tk.Tensorized) else value
    network = to_quimb_network(value, backend=data.draw(st.sampled_from(["numpy", "torch"])))
    dense = value.to_dense()
    there = contracted(network, value.ndim)
    np.testing.assert_allclose(there, dense.numpy(), rtol=1e-3, atol=1e-4)
    back = from_quimb(network, output_inds=[f"k{k}" for k in range(value.ndim)])
    found = back.to_dense()
    if found.is_complex() and not dense.is_complex():  # a constant inside is complex
        assert float(found.imag.abs().max()) < 1e-4
        found = found.real
    torch.testing.assert_close(found, dense, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("cyclic", [False, True])
def test_their_states_come_over(cyclic):
    state = qtn.MPS_rand_state(5, bond_dim=3, phys_dim=2, cyclic=cyclic, dtype="complex128", seed=1)
    value = from_quimb(state)
    assert type(value) is (tk.TensorRing if cyclic else tk.TT)
    np.testing.assert_allclose(np.asarray(value).reshape(-1, 1), state.to_dense(), atol=1e-12)


def test_their_states_of_other_memory_order_come_over():
    state = qtn.MPS_rand_state(4, bond_dim=3, phys_dim=2, seed=1)
    dense = state.to_dense()
    state[1].transpose_(*reversed(state[1].inds))
    np.testing.assert_allclose(np.asarray(from_quimb(state)).reshape(-1, 1), dense, atol=1e-12)


def test_their_operators_come_over():
    operator = qtn.MPO_rand(4, bond_dim=3, phys_dim=2, seed=2)
    value = from_quimb(operator)
    assert isinstance(value, tk.TTMatrix)
    np.testing.assert_allclose(np.asarray(value).reshape(16, 16), operator.to_dense(), atol=1e-12)


def test_a_ttm_of_unequal_sides_is_their_operator():
    value = tk.random_format("ttm", (2, 3, 4, 5), rank=2, rng=0)
    operator = to_quimb(value)
    assert operator.to_dense().shape == (6, 20)
    np.testing.assert_allclose(operator.to_dense(), np.asarray(value).reshape(6, 20), atol=1e-12)


def test_their_graphs_come_over():
    network = qtn.TN_rand_reg(6, 3, D=2, phys_dim=2, seed=3)
    value = from_quimb(network)
    assert value.shape == (2,) * 6
    np.testing.assert_allclose(np.asarray(value), network.contract(output_inds=network.outer_inds()).data, atol=1e-12)


def test_scales_beside_the_network_and_repeated_indices():
    a = np.random.default_rng(0).normal(size=(3, 3))
    network = qtn.TensorNetwork([qtn.Tensor(a, inds=("i", "i")), qtn.Tensor(np.ones(3), inds=("i",))])
    network.exponent = 2.0
    assert float(from_quimb(network, output_inds=()).to_dense()) == pytest.approx(100 * np.trace(a))
    assert from_quimb(qtn.Tensor(a, inds=("i", "j"))).shape == (3, 3)


def test_open_hyperedges_are_named_by_the_caller():
    network = to_quimb_network(tk.random_format("ia,ja,a->ij", (3, 4), rank=2, rng=0))
    assert from_quimb(network, output_inds=["k0", "k1", "_a"]).shape == (3, 4, 2)
    with pytest.raises(tk.ShapeError, match=r"'z' stands on no tensor"):
        from_quimb(network, output_inds=["z"])


def test_gradients_go_through():
    value = tk.random_format("tt", (3, 4), rank=2, rng=0).requires_grad()
    from_quimb(to_quimb(value, backend="torch")).norm().backward()
    assert all(t.grad is not None for t in value.tensors())


def test_refusals():
    with pytest.raises(tk.DTypeError, match=r"reshaped"):
        to_quimb(tk.random_format("blast", (5, 7), rank=2, rng=0))
    with pytest.raises(tk.DTypeError, match=r"not list"):
        from_quimb([1])
    with pytest.raises(tk.OptionError, match=r"backend='jax'"):
        to_quimb(tk.random_format("tt", (3, 4), rank=2, rng=0), backend="jax")
