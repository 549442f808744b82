"""Sparse arrays: what comes in, and how rows are grouped."""

import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

import tnkit as tk
from tests.decompose.sparse_data import require_repeated, sparse_array
from tests.properties.data import DTYPES
from tnkit.decompose import error_floor
from tnkit.errors import DataError, OptionError, ShapeError
from tnkit.linalg import group_rows
from tnkit.rng import generator, normal
from tnkit.sources import SparseTensor, as_source


class TestSource:
    def test_duplicates_are_added_and_zeros_left_out(self):
        x = SparseTensor([[0, 1], [2, 0], [0, 1], [1, 1], [2, 2], [2, 2]], [1, 5, 3, 0, 4.0, -4.0], (3, 3))
        assert x.indices.tolist() == [[0, 1], [2, 0]]
        assert x.values.tolist() == [4.0, 5.0]
        assert (x.nnz, x.ndim, x.numel, x.density) == (2, 2, 9, 2 / 9)
        assert "2 of 9 entries" in repr(x)

    @given(seed=st.integers(0, 10**6), dtype=st.sampled_from(DTYPES))
    def test_the_order_in_which_entries_come_says_nothing(self, seed, dtype):
        gen = generator(seed)
        indices = torch.randint(0, 3, (40, 3), generator=gen)
        values = normal((40,), torch.empty(0, dtype=dtype), gen) * 1e3
        order = torch.randperm(40, generator=gen)
        one, other = SparseTensor(indices, values, (3, 3, 3)), SparseTensor(indices[order], values[order], (3, 3, 3))
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.values, other.values)
        first, second = (tk.decompose(y, "tt", rank=2).tensor.to_dense() for y in (one, other))
        require_repeated(first, second)

    @pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr", "bsc", "hybrid"])
    def test_torch_layouts(self, layout):
        x = sparse_array((4, 6), 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls its own support of CSR a beta
            made = {
                "coo": lambda: x.to_sparse(),
                "csr": lambda: x.to_sparse_csr(),
                "csc": lambda: x.to_sparse_csc(),
                "bsr": lambda: x.to_sparse_bsr((2, 3)),
                "bsc": lambda: x.to_sparse_bsc((2, 3)),
                "hybrid": lambda: x.to_sparse(1),
            }[layout]()
            found = as_source(made)
        assert isinstance(found, SparseTensor)
        assert torch.equal(found.to_dense(), x)
        assert tk.decompose(made, "tt", eps=1e-9).rel_error < 1e-9

    def test_torch_tensors_that_are_not_coalesced(self):
        places, values = [[0, 0, 1], [2, 2, 0]], torch.tensor([1.0, 2.0, 5.0])
        x = torch.sparse_coo_tensor(places, values, (2, 3), check_invariants=True)
        assert as_source(x).to_dense().tolist() == [[0, 0, 3], [5, 0, 0]]

    @pytest.mark.parametrize("kind", ["csr_matrix", "csc_array", "coo_array", "lil_array", "dok_array", "dia_array"])
    def test_scipy(self, kind):
        x = np.diag([1.0, 0.0, 3.0]) + np.eye(3, k=1)
        found = as_source(getattr(scipy.sparse, kind)(x))
        np.testing.assert_array_equal(found.to_dense().numpy(), x)
        assert tk.decompose(getattr(scipy.sparse, kind)(x), "tucker", eps=1e-9).rel_error < 1e-9

    def test_scipy_arrays_of_any_order(self):
        coords = ([0, 1, 1], [2, 0, 0], [1, 1, 0])
        try:
            x = scipy.sparse.coo_array((np.array([1.0, 2.0, 3.0]), coords), shape=(2, 3, 2))
        except (TypeError, ValueError):
            pytest.skip("this SciPy has matrices only")
        assert as_source(x).to_dense()[1, 0].tolist() == [3.0, 2.0]

    @pytest.mark.parametrize(
        ("given", "computed"),
        [
            (torch.float16, torch.float32),
            (torch.float32, torch.float32),
            (torch.int32, torch.float64),
            (torch.bool, torch.float64),
            (torch.complex64, torch.complex64),
        ],
    )
    def test_dtypes(self, given, computed):
        x = SparseTensor(torch.tensor([[0, 1], [1, 0]]), torch.ones(2, dtype=given), (2, 2))
        assert x.dtype == computed
        fit = tk.decompose(x, "tt", rank=2)
        assert fit.tensor.dtype == computed
        assert fit.rel_error <= 4 * error_floor(computed, 2)

    def test_dense_and_back(self):
        x = sparse_array((3, 4, 5), 2)
        assert torch.equal(SparseTensor.from_dense(x).to_dense(), x)

    @pytest.mark.parametrize(
        ("indices", "values", "shape", "error"),
        [
            ([[0, 0]], [np.nan], (2, 2), DataError),
            ([[0, 0]], [np.inf], (2, 2), DataError),
            ([[0, 2]], [1.0], (2, 2), DataError),
            ([[0, -1]], [1.0], (2, 2), DataError),
            ([[0, 0.5]], [1.0], (2, 2), DataError),
            (torch.zeros(1, 2), [1.0], (2, 2), DataError),
            ([[0, 0, 0]], [1.0], (2, 2), ShapeError),
            ([0, 0], [1.0, 2.0], (2, 2), ShapeError),
            ([[0, 0]], [1.0, 2.0], (2, 2), ShapeError),
            ([[0, 0]], [[1.0]], (2, 2), ShapeError),
            ([[0, 0]], [1.0], (2, 0), ShapeError),
            ([[0, 0]], [1.0], (), ShapeError),
            ([[0, 0]], [1.0], 3, ShapeError),
            ([[0, 0]], [1.0], (2.5, 2), ShapeError),
            ([[0, 0]], [1.0], "22", ShapeError),
            ([[0, 0], [1]], [1.0, 2.0], (2, 2), ShapeError),
            (torch.ones(1, 2, dtype=torch.bool), [1.0], (2, 2), DataError),
            ([[0, 0], [0, 0]], [1e308, 1e308], (2, 2), DataError),
        ],
    )
    def test_what_is_refused(self, indices, values, shape, error):
        with pytest.raises(error):
            SparseTensor(indices, values, shape)

    @pytest.mark.parametrize("torch_too", [True, False])
    def test_indices_values_and_shape_in_a_tuple(self, torch_too):
        indices, values = np.array([[0, 1, 2], [1, 0, 0], [0, 1, 2]]), np.array([1.0, 2.0, 3.0])
        if torch_too:
            indices, values = torch.from_numpy(indices), torch.from_numpy(values)
        whole = as_source((indices, values, (2, 3, 4)))
        assert isinstance(whole, SparseTensor)
        assert whole.values.tolist() == [4.0, 2.0]
        assert tk.decompose((indices, values, (2, 3, 4)), "tt", eps=1e-9).rel_error < 1e-9
        assert tk.decompose((indices, values), "cp", eps=1e-9, shape=(2, 3, 4)).rel_error < 1e-9
        with pytest.raises(DataError, match="outside"):
            tk.decompose((indices, values, (2, 3, 2)), "tt", rank=1)
        assert as_source(([[1.0, 2.0]], [[1.0, 2.0]], [[3.0, 4.0]])) is None  # a nested list is dense
        assert as_source((indices, values)) is None

    def test_sizes_whose_product_leaves_the_range_of_integers(self):
        shape = (2**61, 3, 2**61, 5)
        indices = [[2**61 - 1, 2, 5, 4], [0, 1, 2**60, 0], [2**61 - 1, 2, 5, 4]]
        x = SparseTensor(indices, [1.0, 2.0, 3.0], shape)
        assert x.indices.tolist() == [[0, 1, 2**60, 0], [2**61 - 1, 2, 5, 4]]
        assert x.values.tolist() == [2.0, 4.0]

    def test_what_only_dense_arrays_do(self):
        x = SparseTensor([[0, 0, 1]], [1.0], (2, 3, 4))
        with pytest.raises(OptionError, match="sparse coordinates"):
            tk.decompose(x, "tr", rank=2)
        with pytest.raises(OptionError, match="sparse coordinates"):
            tk.decompose(x, "tt", rank=2, method="tt_svd")
        with pytest.raises(OptionError, match="does not fit"):
            tk.decompose(x, "tt", rank=2, method="sparse_tucker")
        with pytest.raises(OptionError, match="auto"):
            tk.decompose(x, eps=0.1)
        with pytest.raises(OptionError, match="permute"):
            tk.decompose(x, "tt", eps=0.1, permute=True)
        with pytest.raises(ShapeError):
            tk.decompose(x, "tt", eps=0.1, shape=(2, 3, 5))


@given(
    sizes=st.lists(st.integers(1, 2**61), min_size=0, max_size=4), count=st.integers(0, 30), seed=st.integers(0, 10**6)
)
def test_rows_are_grouped_as_numpy_does(sizes, count, seed):
    rng = np.random.default_rng(seed)
    pool = np.stack([rng.integers(0, n, 5) for n in sizes], axis=1) if sizes else np.zeros((5, 0), dtype=np.int64)
    table = pool[rng.integers(0, 5, count)]
    found = group_rows(torch.from_numpy(table), sizes)
    if sizes:
        distinct, place = np.unique(table, axis=0, return_inverse=True)
    else:
        distinct, place = table[:1], np.zeros(count, dtype=np.int64)
    np.testing.assert_array_equal(found.rows.numpy(), distinct)
    np.testing.assert_array_equal(found.target.numpy(), place.reshape(-1)[found.order.numpy()])


# --- the pieces -----------------------------------------------------------------------------------------------------
