"""xarray in, xarray out."""

import numpy as np
import torch
import xarray

import tnkit as tk
import tnkit.interop.xarray  # registers the reader
from tnkit.arrays import as_tensor


def field(dtype=np.float64):
    values = np.fromfunction(lambda t, y, x: 1.0 / (1 + t + y + x), (4, 5, 6)).astype(dtype)
    return xarray.DataArray(
        values, dims=("time", "lat", "lon"), coords={"time": [1, 2, 3, 4]}, name="t2m", attrs={"units": "K"}
    )


def test_dims_coords_name_and_dtype_come_back():
    x = field(np.float32)
    incoming = as_tensor(x)
    assert incoming.tensor.dtype == torch.float32
    back = incoming.back(2 * incoming.tensor)
    xarray.testing.assert_identical(back, (2 * x).assign_attrs(x.attrs))
    assert back.dtype == np.float32


def test_another_shape_comes_back_without_coords():
    back = as_tensor(field()).back(torch.ones(3))
    assert isinstance(back, xarray.DataArray)
    assert not back.coords


def test_decompose_takes_it():
    x = field()
    kept = x.copy(deep=True)
    fit = tk.decompose(x, "tt", eps=1e-2)
    assert np.linalg.norm(np.asarray(fit.tensor) - x.values) <= 1e-2 * np.linalg.norm(x.values)
    xarray.testing.assert_identical(x, kept)


def test_plain_arrays_are_left_to_others():
    assert tnkit.interop.xarray.read_dataarray(np.ones(3)) is None
