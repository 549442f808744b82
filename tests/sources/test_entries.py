"""Entries: the count is honest, the memory right, and what a function does wrong is said."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tnkit as tk
from tnkit.sources import Asked, as_source

HUGE = (1000,) * 10


def total(i):
    return 1.0 / (1.0 + i.sum(1))


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=12), st.integers(0, 2**32 - 1))
def test_each_entry_is_asked_for_once(shape, seed):
    rng = np.random.default_rng(seed)
    seen = []

    def f(i):
        seen.extend(map(tuple, i.tolist()))
        return total(i)

    source = tk.Entries(f, shape, dtype=torch.float64)
    for _ in range(3):
        points = np.stack([rng.integers(n, size=20) for n in shape], axis=1)
        new = source.new(points)
        before = source.evaluations
        assert np.array_equal(source.at(points), total(points))
        assert source.evaluations - before == new
    assert len(seen) == len(set(seen)) == source.evaluations
    assert source.asked == 60


def test_products_of_sizes_may_leave_every_integer():
    source = tk.Entries(total, HUGE)
    assert source.numel == 10**30
    corners = np.array([[0] * 10, [999] * 10, [0] * 9 + [999], [999] + [0] * 9])
    assert np.array_equal(source.at(corners), total(corners))


def test_many_are_asked_for_in_one_call():
    calls = []
    source = tk.Entries(lambda i: calls.append(len(i)) or total(i), (40, 40), dtype=torch.float64)
    assert source.dense().shape == (40, 40)
    assert calls == [1600]


def test_the_function_cannot_spoil_the_indices():
    def f(i):
        value = total(i)
        i[:] = 0
        return value

    points = np.array([[1, 2], [3, 4]])
    assert np.array_equal(tk.Entries(f, (5, 5)).at(points), [1 / 4, 1 / 8])
    assert points.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("f", "dtype"),
    [
        (lambda i: i.sum(1), torch.float64),
        (lambda i: total(i).astype(np.float32), torch.float32),
        (lambda i: 1j * total(i), torch.complex128),
        (lambda i: i.sum(1) > 3, torch.float64),
        (lambda i: [float(n) for n in i.sum(1)], torch.float64),
    ],
)
def test_the_dtype_is_that_of_the_values(f, dtype):
    source = tk.Entries(f, (4, 5))
    assert source.dtype == dtype
    assert source.dense().dtype == dtype


def test_torch_functions_get_torch_indices():
    source = tk.Entries(lambda i: torch.sqrt(i[:, 0] + 2.0 * i[:, 1]), (4, 5), array="torch", dtype=np.float64)
    want = torch.sqrt(torch.arange(4.0)[:, None] + 2.0 * torch.arange(5.0))
    assert torch.allclose(source.dense(), want.double())


def test_from_a_dense_tensor():
    x = torch.arange(24.0).reshape(2, 3, 4)
    source = tk.Entries.from_dense(x)
    assert torch.equal(source.dense(), x)
    assert source.dtype == x.dtype


WRONG = {
    "too few": (lambda i: np.zeros(3), tk.ShapeError, "gave values of shape (3,)"),
    "a scalar": (lambda i: 1.0, tk.ShapeError, "one number for each row"),
    "a table": (lambda i: i * 1.0, tk.ShapeError, "i[:, 0]"),
    "NaN": (lambda i: np.full(len(i), np.nan), tk.DataError, "nan at index (1, 2)"),
    "infinite": (lambda i: np.full(len(i), np.inf), tk.DataError, "inf at index (1, 2)"),
    "text": (lambda i: np.array(["a"] * len(i)), tk.DTypeError, "numbers"),
    "nothing": (lambda i: None, tk.TnkitError, "The function gave"),
    "complex": (lambda i: 1j * total(i), tk.DTypeError, "dtype=torch.complex128"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_function_does_wrong(case):
    f, kind, words = WRONG[case]
    source = tk.Entries(f, (4, 5), dtype=torch.float64)
    with pytest.raises(kind) as caught:
        source.at(np.array([[1, 2]]))
    assert isinstance(caught.value, tk.TnkitError)
    assert words in str(caught.value)


def test_what_a_function_raises_passes_through():
    def f(i):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        tk.decompose(f, "tt", shape=(30, 30, 30), eps=0.1)


@pytest.mark.parametrize("shape", [(), (3, 0), (3, 2.5), 7, (3, -1)])
def test_shapes_that_are_none(shape):
    with pytest.raises(tk.ShapeError):
        tk.Entries(total, shape)


def test_options():
    with pytest.raises(tk.OptionError, match="cannot be called"):
        tk.Entries(3, (3,))
    with pytest.raises(tk.OptionError, match="'jax'"):
        tk.Entries(total, (3,), array="jax")
    with pytest.raises(tk.OptionError, match="shape="):
        tk.decompose(total, "tt", eps=1e-3)


def test_which_things_are_functions_of_indices():
    assert isinstance(as_source(total, Asked(shape=(3, 3))), tk.Entries)
    assert as_source(np.ones(3), Asked(shape=(3,))) is None
    assert as_source(torch.ones(3)) is None
    assert as_source([[1.0]]) is None


def test_a_function_of_several_arguments_is_refused_with_the_way_out():
    with pytest.raises(tk.TnkitError, match=r"\(i, j, k\).*one array"):
        tk.decompose(lambda i, j, k: i + j + k, "tt", shape=(3, 4, 5), eps=1e-3)
    assert tk.decompose(lambda *i: i[0].sum(1) + 1.0, "tt", shape=(3, 4), rank=2).ranks
