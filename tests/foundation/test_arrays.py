"""The boundary: what comes in, and how the answer goes back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tnkit as tk
from tnkit.arrays import (
    ARRAY_KINDS,
    as_tensor,
    check_dense_size,
    engine_dtype,
    machine_eps,
    require_finite,
    to_numpy,
)
from tnkit.testing.strategies import arrays, dtypes, layouts, shapes, with_layout

NUMPY = {
    "f2": torch.float32,
    "f4": torch.float32,
    "f8": torch.float64,
    "g": torch.float64,
    "c8": torch.complex64,
    "c16": torch.complex128,
    "G": torch.complex128,
    "i1": torch.float64,
    "i8": torch.float64,
    "u2": torch.float64,
    "u8": torch.float64,
    "?": torch.float64,
    ">f4": torch.float32,
}


@pytest.mark.parametrize(("dtype", "inside"), NUMPY.items())
def test_numpy_dtypes(dtype, inside):
    array = (np.arange(6).reshape(2, 3) % 2).astype(dtype)
    incoming = as_tensor(array)
    assert incoming.tensor.dtype == inside
    np.testing.assert_array_equal(incoming.tensor.numpy(), array)
    back = incoming.back(incoming.tensor)
    assert isinstance(back, np.ndarray)
    if array.dtype.kind == "f":
        assert back.dtype == array.dtype


@pytest.mark.parametrize(
    ("dtype", "inside"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.complex64, torch.complex64),
        (torch.int32, torch.float64),
        (torch.bool, torch.float64),
    ],
    ids=str,
)
def test_torch_dtypes(dtype, inside):
    x = torch.ones(2, 3).to(dtype)
    incoming = as_tensor(x)
    assert incoming.tensor.dtype == inside
    assert incoming.dtype == dtype
    back = incoming.back(incoming.tensor)
    assert isinstance(back, torch.Tensor)
    assert back.dtype == (dtype if dtype.is_floating_point or dtype.is_complex else inside)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24.0).reshape(2, 3, 4)[::-1, :, ::-2],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.broadcast_to(np.arange(3.0), (4, 3)),
        np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
        np.zeros(4, dtype=[("tag", "u1"), ("value", "f8")])["value"],
    ],
    ids=["negative", "fortran", "broadcast", "transposed", "packed"],
)
def test_memory_of_numpy_arrays(array):
    kept = array.copy()
    incoming = as_tensor(array)
    np.testing.assert_array_equal(incoming.tensor.numpy(), kept)
    np.testing.assert_array_equal(array, kept)


def test_read_only_memory_comes_in_without_a_warning():
    array = np.ones((2, 3))
    array.flags.writeable = False
    assert as_tensor(array).tensor.shape == (2, 3)


def test_memory_is_shared_where_it_can_be():
    array = np.ones((2, 3))
    assert as_tensor(array).tensor.data_ptr() == array.ctypes.data
    x = torch.ones(2, 3)
    assert as_tensor(x).tensor is x


def test_lists_and_dlpack():
    assert as_tensor([[1, 2], [3, 4]]).tensor.dtype == torch.float64
    assert as_tensor([[1.5, 2j]]).tensor.dtype == torch.complex128

    class Other:
        def __init__(self, tensor):
            self.tensor = tensor

        def __dlpack__(self, **options):
            return self.tensor.__dlpack__()

        def __dlpack_device__(self):
            return self.tensor.__dlpack_device__()

    x = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(as_tensor(Other(x)).tensor, x)


def test_lazy_conjugates_are_resolved():
    x = torch.randn(2, 3, dtype=torch.complex64).conj()
    assert not as_tensor(x).tensor.is_conj()
    assert torch.equal(as_tensor(x).tensor, x)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (np.float64(3.0), tk.DataError, "is a scalar"),
        (3.0, tk.DataError, "is a scalar"),
        (torch.tensor(1.0), tk.DataError, "is a scalar"),
        (np.zeros((3, 0)), tk.DataError, r"shape \(3, 0\) is empty"),
        ([], tk.DataError, "is empty"),
        ([[1, 2], [3]], tk.DataError, "could not be read as an array"),
        (np.array(["a", "b"]), tk.DTypeError, "not numeric"),
        (np.array([{}]), tk.DTypeError, "not numeric"),
        (np.array(["2020-01-01"], dtype="M8[D]"), tk.DTypeError, "not numeric"),
        (np.ma.masked_array([1.0, 2.0], mask=[True, False]), tk.DataError, r"1 masked entries. .*tk.complete\(photo\)"),
        ("text", tk.TnkitError, "photo"),
        (None, tk.TnkitError, "photo"),
        (torch.ones(2, 2).to_sparse(), tk.DTypeError, "sparse tensor .*to_dense"),
        (torch.ones(2, device="meta"), tk.DTypeError, "meta tensor"),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, str) else v[:12],
)
def test_refused(x, error, words):
    with pytest.raises(error, match=words):
        as_tensor(x, name="photo")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(value):
    x = torch.ones(3, 4)
    x[1, 2] = x[0, 0] = value
    with pytest.raises(
        tk.DataError, match=r"photo of shape \(3, 4\) holds 2 NaN or infinite values.*tk.complete\(photo\)"
    ):
        require_finite(x, name="photo")


@pytest.mark.parametrize(("scale", "dtype"), [(1e200, torch.float64), (1e30, torch.float32), (1e-300, torch.float64)])
def test_large_and_small_values_are_finite(scale, dtype):
    norm = require_finite(torch.full((3, 4), scale, dtype=dtype))
    assert norm == pytest.approx(scale * 12**0.5) or norm in (0.0, float("inf"))


@given(x=arrays(shape=shapes(max_entries=60), dtype=dtypes()), layout=layouts())
def test_layouts_hold_the_same_values(x, layout):
    other = with_layout(x, layout)
    assert torch.equal(other, x)
    assert torch.equal(as_tensor(other).tensor, as_tensor(x).tensor)


@given(dtype=st.sampled_from(sorted(NUMPY)), shape=shapes(max_entries=30))
def test_there_and_back(dtype, shape):
    array = np.ones(shape).astype(dtype)
    incoming = as_tensor(array)
    np.testing.assert_array_equal(incoming.back(incoming.tensor), array)


def test_a_registered_kind(monkeypatch):
    class Boxed:
        def __init__(self, values):
            self.values = values

    monkeypatch.setattr(ARRAY_KINDS, "_entries", dict(ARRAY_KINDS.items()))
    ARRAY_KINDS.register("boxed", lambda x: (x.values, Boxed) if isinstance(x, Boxed) else None)
    incoming = as_tensor(Boxed(np.ones((2, 3), dtype=np.float32)))
    back = incoming.back(incoming.tensor)
    assert isinstance(back, Boxed)
    assert back.values.dtype == np.float32


def test_a_masked_array_that_hides_nothing_is_an_array():
    assert torch.equal(as_tensor(np.ma.masked_array([1.0, 2.0])).tensor, torch.tensor([1.0, 2.0]).double())


def test_small_helpers():
    assert engine_dtype(torch.bfloat16) == torch.float32
    with pytest.raises(tk.DTypeError, match=r"not supported"):
        engine_dtype(torch.float8_e4m3fn)
    assert machine_eps(torch.complex64) == np.finfo(np.float32).eps
    assert to_numpy(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float32
    assert to_numpy(torch.ones(2, requires_grad=True).cfloat().conj()).dtype == np.complex64


def test_a_dense_result_that_would_not_fit_is_refused():
    with pytest.raises(
        tk.MemoryLimitError, match=r"The thing of shape .* would take .* GiB .* Ask for parts of it"
    ) as raised:
        check_dense_size((10**5,) * 3, torch.float64, torch.device("cpu"), what="The thing")
    assert isinstance(raised.value, MemoryError)
    check_dense_size((10, 10), torch.float64, torch.device("cpu"), what="The thing")
    huge = tk.random_format("tt", (10**4,) * 4, rank=2, rng=0)
    with pytest.raises(tk.MemoryLimitError):
        huge.to_dense()
    assert huge.at([[0, 1, 2, 3]]).shape == (1,)
    assert huge[0, :, 0, 0].shape == (10**4,)
