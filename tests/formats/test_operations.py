"""What the operations keep: kinds, ranks, dtypes. Their values are checked in tests/contract."""

import numpy as np
import pytest
import torch

import tnkit as tk
from tnkit.formats import operations
from tnkit.formats.operation import Operation
from tnkit.registry import FORMATS

PLAIN = ("tt", "tr", "cp", "tucker", "btd", "ht")


def make(name, shape=(4, 5, 6), rank=2, seed=0, **options):
    return tk.random_format(name, shape, rank=rank, rng=seed, **options)


def close(a, b):
    a = a.to_dense() if isinstance(a, tk.Format) else a
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


class TestSums:
    """Ranks add where the structure is the same; otherwise the result is a network."""

    @pytest.mark.parametrize("name", FORMATS.names())
    def test_the_kind_stays(self, name):
        a, b = make(name), make(name, seed=1)
        total = a + b
        assert type(total) is type(a)
        assert total.ranks == tuple(r + s for r, s in zip(a.ranks, b.ranks, strict=True)) or name in ("btd",)
        close(total, a.to_dense() + b.to_dense())

    def test_block_terms_add_terms(self):
        a, b = make("btd"), make("btd", seed=1)
        assert (a + b).terms == a.terms + b.terms

    @pytest.mark.parametrize("first", PLAIN)
    @pytest.mark.parametrize("second", PLAIN)
    def test_of_different_kinds(self, first, second):
        a, b = make(first), make(second, seed=1)
        close(a + b, a.to_dense() + b.to_dense())
        close(a - b, a.to_dense() - b.to_dense())
        close(a * b, a.to_dense() * b.to_dense())
        close(a.inner(b), (a.to_dense() * b.to_dense()).sum())

    def test_of_different_dtypes(self):
        a, b = make("tt", dtype=torch.float32), make("tt", dtype=torch.complex128, seed=1)
        assert (a + b).dtype == torch.complex128
        torch.testing.assert_close((a + b).to_dense(), a.to_dense() + b.to_dense(), rtol=1e-5, atol=1e-5)
        assert (a * 1j).dtype == torch.complex64
        assert a.inner(b).dtype == torch.complex128

    def test_many(self):
        value = make("tt")
        total = value
        for _ in range(4):
            total = total + value
        close(total, 5 * value.to_dense())
        assert total.ranks == (10, 10)


class TestNumbers:
    """A number beside a format is added to every entry, and costs one rank."""

    @pytest.mark.parametrize("name", FORMATS.names())
    @pytest.mark.parametrize("shape", [(4, 5, 6), (12, 15)])
    def test_added(self, name, shape):
        value = make(name, shape)
        close(value + 1.5, value.to_dense() + 1.5)
        close(2 - value, 2 - value.to_dense())
        close(value - value.mean(), value.to_dense() - value.to_dense().mean())
        close(1j + value, 1j + value.to_dense())

    @pytest.mark.parametrize("name", ["tt", "tr", "cp", "tucker", "ht"])
    def test_the_kind_stays(self, name):
        value = make(name)
        assert type(value + 1) is type(value)
        assert (value + 1).ranks == tuple(r + 1 for r in value.ranks)

    def test_zero_costs_nothing(self):
        a, b = make("tt"), make("tt", seed=1)
        assert sum([a, b]).ranks == (a + b).ranks

    @pytest.mark.parametrize("modes", [None, 0, (0, 2), [-1]])
    def test_mean(self, modes):
        value = make("tt")
        dims = list(range(3)) if modes is None else modes
        close(value.mean(modes), value.to_dense().mean(dims))


class TestProducts:
    """Matrix products and scales."""

    @pytest.mark.parametrize("name", FORMATS.names())
    @pytest.mark.parametrize("tail", [(), (3,), (2, 3)])
    def test_with_a_dense_tensor(self, name, tail):
        value = make(name, (4, 6, 5))
        x = torch.randn(5, *tail, dtype=torch.float64)
        close(value @ x, torch.tensordot(value.to_dense(), x, dims=1))
        assert isinstance(value @ x.numpy(), np.ndarray)

    @pytest.mark.parametrize("name", ["lowrank", "btt", "monarch", "blast", "kron", "ttm"])
    @pytest.mark.parametrize("shape", [(12, 15), (7, 11), (1, 5), (5, 1)])
    def test_a_structured_matrix_times_vectors(self, name, shape):
        value = make(name, shape)
        x = torch.randn(shape[1], 3, dtype=torch.float64)
        close(value @ x, value.to_dense() @ x)
        close(value @ x[:, 0], value.to_dense() @ x[:, 0])

    def test_low_rank_times_low_rank_keeps_the_smaller_rank(self):
        a, b = make("lowrank", (6, 7), rank=4), make("lowrank", (7, 8), rank=2, seed=1)
        assert type(a @ b) is tk.LowRank
        assert (a @ b).ranks == (2,)
        close(a @ b, a.to_dense() @ b.to_dense())

    @pytest.mark.parametrize("order", ["interleaved", "split"])
    def test_tt_matrices(self, order):
        spec = tk.TTMatrixSpec(order=order)
        a, b = make(spec, (2, 3, 4, 5)), make(spec, (4, 5, 3, 2), seed=1)
        want = torch.einsum("abij,ijcd->abcd", a.to_dense(), b.to_dense())
        close(a @ b, want)
        x = make("tt", (4, 5), seed=2)
        close(a @ x, torch.einsum("abij,ij->ab", a.to_dense(), x.to_dense()))
        if order == "interleaved":
            assert type(a @ b) is tk.TTMatrix
            assert type(a @ x) is tk.TT

    def test_other_formats_contract_one_mode(self):
        a, b = make("tucker", (4, 5, 6)), make("cp", (6, 3), seed=1)
        close(a @ b, torch.tensordot(a.to_dense(), b.to_dense(), dims=1))

    def test_numbers(self):
        value = make("cp")
        for factor in (2, 0.5, -1.5, np.float32(3), torch.tensor(2.0)):
            close(value * factor, value.to_dense() * float(factor))
            close(factor * value, value.to_dense() * float(factor))
        close(value / 4, value.to_dense() / 4)
        assert type(2 * value) is tk.CP

    def test_numpy_makes_no_array_of_a_format(self):
        for operate in (np.multiply, np.add):
            with pytest.raises(TypeError):
                operate(np.ones((4, 5, 6)), make("cp"))

    @pytest.mark.parametrize("other", ["text", None, [1, 2]])
    def test_what_is_no_operand(self, other):
        for operate in (lambda v: v + other, lambda v: v - other, lambda v: v * other, lambda v: v @ other):
            with pytest.raises(TypeError):
                operate(make("tt"))


class TestSlices:
    """Modes that are gone are absorbed where the format can."""

    @pytest.mark.parametrize("name", ["tt", "tr", "cp", "tucker"])
    @pytest.mark.parametrize(
        "key", [(0,), (..., 1), (slice(None), 2), (1, slice(None), 3), (slice(1, 3), 0, slice(None, None, 2))]
    )
    def test_the_kind_stays(self, name, key):
        value = make(name)
        part = value[key]
        assert type(part) is type(value)
        close(part, value.to_dense()[key])

    @pytest.mark.parametrize("name", FORMATS.names())
    def test_sums_over_modes(self, name):
        value = make(name)
        close(value.sum(1), value.to_dense().sum(1))
        close(value.sum((0, 2)), value.to_dense().sum((0, 2)))
        assert value.sum().ndim == 0
        close(value.sum(()), value.to_dense())

    def test_single_entries_are_0d(self):
        assert make("tt")[1, 2, 3].ndim == 0
        assert make("tt")[-1, -2, -3] == make("tt").to_dense()[-1, -2, -3]

    @pytest.mark.parametrize(
        ("key", "error", "words"),
        [
            ((0, 0, 0, 0), tk.OptionError, "4 indices for a tensor of 3 modes"),
            ((..., 0, ...), tk.OptionError, r"one '\.\.\.' only"),
            (7, IndexError, "index 7 is out of bounds for mode 0 with size 4"),
            ((0, -6), IndexError, "out of bounds for mode 1 with size 5"),
            (slice(4, None), tk.OptionError, "The slice of mode 0 .size 4. is empty"),
            ("a", tk.OptionError, "Index 'a' of mode 0 is not supported"),
            ([0, 1], tk.OptionError, r"use integers and slices, or at\(indices\)"),
            (True, tk.OptionError, "Index True"),
        ],
    )
    def test_refused(self, key, error, words):
        with pytest.raises(error, match=words):
            make("tt")[key]

    @pytest.mark.parametrize(
        ("indices", "error", "words"),
        [
            ([[0, 0]], tk.ShapeError, r"do not fit 3 modes; give \(N, 3\)"),
            ([0, 0, 0], tk.ShapeError, "do not fit 3 modes"),
            ([[0, 0, 6]], tk.OptionError, r"index \(0, 0, 6\) leaves the shape \(4, 5, 6\)"),
            ([[-5, 0, 0]], tk.OptionError, "leaves the shape"),
            ([[0.5, 0, 0]], tk.OptionError, "not whole"),
            (torch.zeros(1, 3), tk.OptionError, "whole numbers are needed"),
        ],
    )
    def test_indices_that_are_refused(self, indices, error, words):
        with pytest.raises(error, match=words):
            make("tt").at(indices)

    def test_modes_that_do_not_exist(self):
        with pytest.raises(tk.OptionError, match=r"Mode 3 does not exist; the tensor has modes 0 … 2"):
            make("tt").sum(3)


class TestRounding:
    """eps is kept, ranks are found again."""

    @pytest.mark.parametrize("name", ["tt", "tucker", "ht", "lowrank", "ttm", "kron"])
    def test_a_sum_with_itself(self, name):
        value = make(name, (4, 5, 6) if name != "ttm" else (3, 4, 4, 3))
        rounded = (value + value).round(eps=1e-12)
        assert type(rounded) is type(value)
        assert rounded.ranks == value.ranks
        close(rounded, 2 * value.to_dense())

    @pytest.mark.parametrize("name", FORMATS.names())
    def test_eps_is_kept(self, name):
        value = make(name) + 0.03 * make(name, seed=1)
        rounded = value.round(eps=0.1)
        error = torch.linalg.vector_norm(rounded.to_dense() - value.to_dense())
        assert error <= 0.1 * torch.linalg.vector_norm(value.to_dense())
        assert rounded.n_params <= value.n_params

    def test_limits_of_rank(self):
        value = make("tt", rank=4)
        assert value.round(2).ranks == (2, 2)
        assert value.round((3, 1)).ranks == (3, 1)
        with pytest.raises(tk.OptionError):
            value.round()


class TestRefused:
    """Shapes that do not fit, said with both."""

    @pytest.mark.parametrize(
        "operate", [lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a.inner(b)]
    )
    def test_other_shapes(self, operate):
        with pytest.raises(
            tk.ShapeError, match=r"a tt of shape \(4, 5, 6\) and a cp of shape \(4, 5, 7\); shapes must be equal"
        ):
            operate(make("tt"), make("cp", (4, 5, 7)))

    def test_products_that_do_not_fit(self):
        with pytest.raises(
            tk.ShapeError, match=r"Cannot multiply a tt of shape \(4, 5, 6\) with a tensor of shape \(5, 2\)"
        ):
            _ = make("tt") @ torch.ones(5, 2)
        with pytest.raises(tk.ShapeError, match=r"with a cp of shape \(4, 5\)"):
            _ = make("tt") @ make("cp", (4, 5))

    def test_no_copy_of_what_has_no_array(self):
        with pytest.raises(ValueError, match=r"has no dense array to share"):
            np.asarray(make("tt"), copy=False)
        assert np.asarray(make("tt"), dtype=np.float32).dtype == np.float32


def test_an_operation_is_open():
    size = Operation("size")
    with pytest.raises(TypeError, match=r"size is not defined for int"):
        size(3)
    size.generic(lambda x: 0)
    size.register(str)(len)
    assert (size("abc"), size(3), size(True)) == (3, 0, 0)
    assert size.special(str)
    assert not size.special(int)
    assert operations.matmul.special(tk.LowRank, tk.LowRank)


def test_values_are_immutable():
    value = make("tucker")
    kept = value.to_dense()
    for operate in (
        lambda v: v + v,
        lambda v: v * v,
        lambda v: 2 * v,
        lambda v: v[1:],
        lambda v: v.round(1),
        lambda v: v.sum(0),
    ):
        operate(value)
        assert torch.equal(value.to_dense(), kept)
