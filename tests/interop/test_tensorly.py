"""tensorly's objects, both ways, whatever its backend is."""

import numpy as np
import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.cp_tensor import CPTensor

import tnkit as tk
from tnkit.interop.tensorly import from_tensorly, to_tensorly
from tnkit.testing.strategies import dtypes, formats, shapes

NAMES = ("cp", "tucker", "tt", "tr")


@pytest.fixture(params=["numpy", "pytorch"])
def their_backend(request):
    before = tensorly.get_backend()
    tensorly.set_backend(request.param)
    yield request.param
    tensorly.set_backend(before)


def equal_bits(a, b):
    assert type(a) is type(b)
    for s, t in zip(a.tensors(), b.tensors(), strict=True):
        assert s.dtype == t.dtype
        assert torch.equal(s, t)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10)
@given(data=st.data())
def test_round_trip(name, data):
    value = data.draw(formats(name, shape=shapes(min_order=2, max_order=5, max_entries=200), dtype=dtypes()))
    backend = data.draw(st.sampled_from(["numpy", "pytorch"]))
    there = to_tensorly(value, backend=backend)
    assert tuple(there.shape) == value.shape
    equal_bits(from_tensorly(there), value)


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize(("name", "shape"), [*((n, (3, 4, 5)) for n in NAMES), ("ttm", (3, 4, 2, 5))])
def test_it_is_the_same_tensor_there(name, shape, dtype, backend, their_backend):
    value = tk.random_format(name, shape, rank=2, dtype=dtype, rng=0)
    there = to_tensorly(value, backend=backend)
    assert tensorly.get_backend() == their_backend
    with tensorly.backend_context(backend, local_threadsafe=True):
        dense = np.asarray(there.to_tensor())
    np.testing.assert_allclose(dense, np.asarray(value), rtol=1e-4, atol=1e-5)
    equal_bits(from_tensorly(there), value)


def test_the_default_is_their_backend(their_backend):
    there = to_tensorly(tk.random_format("tucker", (3, 4), rank=2, rng=0))
    kind = np.ndarray if their_backend == "numpy" else torch.Tensor
    assert isinstance(there.core, kind)
    assert all(isinstance(f, kind) for f in there.factors)


@pytest.mark.parametrize(
    ("decompose", "options"),
    [("parafac", {"rank": 3}), ("tucker", {"rank": [2, 2, 2]}), ("tensor_train", {"rank": [1, 2, 2, 1]})],
)
def test_what_they_decompose_comes_over(decompose, options):
    rng = np.random.default_rng(0)
    theirs = getattr(tensorly.decomposition, decompose)(rng.normal(size=(4, 5, 6)), **options)
    value = from_tensorly(theirs)
    np.testing.assert_allclose(np.asarray(value), theirs.to_tensor(), atol=1e-12)


def test_gradients_go_through():
    value = tk.random_format("tt", (3, 4), rank=2, rng=0).requires_grad()
    back = from_tensorly(to_tensorly(value, backend="pytorch"))
    back.norm().backward()
    assert all(t.grad is not None for t in value.tensors())


def test_numpy_objects_have_memory_of_their_own():
    value = tk.random_format("tt", (3, 4), rank=2, rng=0)
    kept = value.to_dense()
    there = to_tensorly(value, backend="numpy")
    back = from_tensorly(there)
    there.factors[0][:] = 0
    assert torch.equal(value.to_dense(), kept)
    assert torch.equal(back.to_dense(), kept)


def test_no_weights_are_ones():
    theirs = CPTensor((np.ones(2), [np.ones((3, 2)), np.ones((4, 2))]))
    theirs.weights = None
    assert from_tensorly(theirs).to_dense()[0, 0] == 2


@pytest.mark.parametrize("name", ["btd", "ht", "tubal", "lowrank", "blast"])
def test_formats_that_they_do_not_have(name):
    with pytest.raises(tk.DTypeError, match=r"tensorly has no format for a"):
        to_tensorly(tk.random_format(name, (4, 5, 6), rank=2, rng=0))


def test_other_refusals():
    tt = tk.random_format("tt", (3, 4), rank=2, rng=0)
    with pytest.raises(tk.OptionError, match=r"backend='jax'"):
        to_tensorly(tt, backend="jax")
    split = tk.random_format(tk.TTMatrixSpec(order="split"), (3, 4, 3, 4), rank=2, rng=0)
    with pytest.raises(tk.OptionError, match=r"interleaved"):
        to_tensorly(split)
    with pytest.raises(tk.DTypeError, match=r"not list"):
        from_tensorly([1, 2])
