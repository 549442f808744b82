"""Arrays read in slabs: every kind of array, the limit of memory, eps, and sizes near those of a fit in memory."""

import dask.array
import h5py
import numpy as np
import pytest
import torch
import zarr

import tnkit as tk
from tests.properties.data import array, true_error
from tnkit.sources import as_source
from tnkit.sources.mapped import read_mapped
from tnkit.sources.slabs import Slabs

SHAPE = (20, 30, 40)


def stored(kind, x, folder):
    if kind == "numpy":
        return x
    if kind == "fortran":
        return np.asfortranarray(x)
    if kind == "steps":
        wide = np.zeros([2 * n for n in x.shape])
        wide[::2, ::2, ::2] = x
        return wide[::2, ::2, ::2]
    if kind == "torch":
        return torch.from_numpy(x)
    if kind == "memmap":
        np.save(folder / "x.npy", x)
        return np.load(folder / "x.npy", mmap_mode="r")
    if kind == "memmap part":
        np.save(folder / "x.npy", np.concatenate([x, x]))
        return np.load(folder / "x.npy", mmap_mode="r")[len(x) :]
    if kind == "zarr":
        z = zarr.create_array(store=str(folder / "z"), shape=x.shape, chunks=(10, 7, 40), dtype=x.dtype)
        z[:] = x
        return z
    if kind == "h5py":
        return h5py.File(folder / "x.h5", "w").create_dataset("x", data=x, chunks=(5, 30, 8))
    return dask.array.from_array(x, chunks=(6, 10, 40))


KINDS = ("numpy", "fortran", "steps", "torch", "memmap", "memmap part", "zarr", "h5py", "dask")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", [(), (0,), (2,), (0, 1)])
def test_boxes_cover_the_array_once(kind, whole, tmp_path):
    x = array(SHAPE, "noise", 1).numpy()
    source = Slabs(stored(kind, x, tmp_path))
    found = np.zeros(SHAPE)
    for where in source.boxes(3000, whole):
        box = source.read(where)
        assert all(where[axis] == slice(0, SHAPE[axis]) for axis in whole)
        assert box.numel() <= max(3000, np.prod([SHAPE[axis] for axis in whole]))
        found[where] += box.numpy()
    assert np.array_equal(found, x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tt", "tucker"])
def test_decompose_within_a_limit(kind, name, tmp_path):
    x = array(SHAPE, "planted", 2).numpy()
    fit = tk.decompose(stored(kind, x, tmp_path), name, eps=0.01, memory_limit=x.nbytes)
    assert fit.method == f"slab_{name}"
    assert true_error(torch.from_numpy(x), fit.tensor.to_dense()) <= 0.01


def test_a_mapped_file_is_read_without_its_mapping(tmp_path):
    x = array((64, 5, 7, 9), "noise", 1).numpy()
    mapped = stored("memmap", x, tmp_path)
    for where in [(slice(3, 60), slice(1, 3), slice(0, 7), slice(2, 4)), tuple(slice(0, n) for n in x.shape)]:
        box = read_mapped(mapped, where)
        if box is None:
            pytest.skip("the file of a mapping cannot be found here")
        assert np.array_equal(box, x[where])
    assert read_mapped(np.load(tmp_path / "x.npy", mmap_mode="c"), where) is None
    assert read_mapped(x, where) is None


def test_a_file_that_was_replaced_is_not_read(tmp_path):
    x = array(SHAPE, "noise", 1).numpy()
    mapped = stored("memmap", x, tmp_path)
    np.save(tmp_path / "other.npy", 0 * x)
    (tmp_path / "other.npy").replace(tmp_path / "x.npy")
    where = tuple(slice(0, n) for n in SHAPE)
    assert np.array_equal(Slabs(mapped).read(where).numpy(), x)


def test_boxes_follow_the_way_the_array_is_stored(tmp_path):
    x = array(SHAPE, "noise", 1).numpy()
    assert Slabs(x).widths(2400) == (2, 30, 40)
    assert Slabs(np.asfortranarray(x)).widths(2400) == (20, 30, 4)
    assert Slabs(stored("zarr", x, tmp_path)).widths(9000) == (20, 7, 40)


@pytest.mark.parametrize("name", ["tt", "tucker"])
@pytest.mark.parametrize("kind", ["planted", "smooth"])
@pytest.mark.parametrize("eps", [0.1, 0.01])
def test_as_small_as_in_memory(name, kind, eps):
    x = array((30, 20, 25, 16), kind, 1)
    method = {"tt": "tt_svd", "tucker": "st_hosvd"}[name]
    inside = tk.decompose(x, name, eps=eps, method=method)
    fit = tk.decompose(x.numpy(), name, eps=eps, memory_limit="1.2 MB")
    assert fit.n_params <= 1.05 * inside.n_params
    assert fit.rel_error == pytest.approx(true_error(x, fit.tensor.to_dense()), rel=0.01)


@pytest.mark.parametrize("name", ["tt", "tucker"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int32, np.complex64])
def test_dtypes(name, dtype):
    x = (100 * array(SHAPE, "planted", 2, torch.complex128)).numpy()
    x = x.astype(dtype) if np.dtype(dtype).kind == "c" else x.real.astype(dtype)
    fit = tk.decompose(x, name, eps=0.05, memory_limit="200 kB")
    wide = torch.from_numpy(x.astype(np.complex128))
    assert true_error(wide, fit.tensor.to_dense()) <= 0.05


@pytest.mark.parametrize("name", ["tt", "tucker"])
@pytest.mark.parametrize("exponent", [-200, 200])
def test_extreme_scales(name, exponent):
    x = array(SHAPE, "planted", 2) * 10.0**exponent
    fit = tk.decompose(x.numpy(), name, eps=0.01, memory_limit="200 kB")
    assert true_error(x, fit.tensor.to_dense()) <= 0.01


@pytest.mark.parametrize("name", ["tt", "tucker"])
def test_zeros_and_what_is_no_number(name):
    x = np.zeros(SHAPE)
    fit = tk.decompose(x, name, eps=0.01, memory_limit="200 kB")
    assert fit.rel_error == 0.0
    assert not np.asarray(fit.tensor).any()
    x[3, 4, 5] = np.nan
    with pytest.raises(tk.DataError, match="NaN"):
        tk.decompose(x, name, eps=0.01, memory_limit="200 kB")


@pytest.mark.parametrize("name", ["tt", "tucker"])
def test_an_eps_below_what_a_gram_matrix_resolves(name):
    x = tk.random_format(name, (30, 20, 25), 3, rng=0).to_dense()
    fit = tk.decompose(x.numpy(), name, eps=1e-11, memory_limit="200 kB")
    assert fit.ranks == tk.decompose(x, name, eps=1e-11).ranks
    assert true_error(x, fit.tensor.to_dense()) <= 1e-11


@pytest.mark.parametrize("name", ["tt", "tucker"])
def test_by_rank(name):
    x = array((40, 30, 20), "planted", 2)
    fit = tk.decompose(x.numpy(), name, rank=2, memory_limit="300 kB")
    assert fit.rel_error <= 1.01 * tk.decompose(x, name, rank=2).rel_error
    assert fit.rel_error == pytest.approx(true_error(x, fit.tensor.to_dense()), rel=0.01)


def test_a_limit_that_is_too_small_names_what_is_needed():
    x = array(SHAPE, "noise", 1).numpy()
    with pytest.raises(tk.MemoryLimitError, match=r"needs about .* bytes beside the result, and memory_limit=20,000"):
        tk.decompose(x, "tt", eps=0.01, memory_limit="20 kB")


def test_lazy_arrays_without_a_limit_are_read_where_they_fit(tmp_path):
    x = array(SHAPE, "planted", 2).numpy()
    for kind in ("zarr", "dask", "h5py"):
        fit = tk.decompose(stored(kind, x, tmp_path), "tt", eps=0.01)
        assert fit.method == "tt_svd"
    huge = dask.array.zeros((10**6, 10**4, 10**3), chunks=(10**3, 10**3, 10**2))
    with pytest.raises(tk.MemoryLimitError, match="memory_limit="):
        tk.decompose(huge, "tt", eps=0.01)


def test_what_is_no_plain_array_is_left_to_others():
    assert as_source([[1.0, 2.0]]) is None
    assert as_source(np.ones(3)) is None
    assert not isinstance(as_source(torch.eye(3).to_sparse()), Slabs)
