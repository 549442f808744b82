"""What counts as observed, and what is refused before any work."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tnkit.completion import Observations
from tnkit.completion.holdout import split, whole_modes
from tnkit.errors import DataError, DTypeError, MaskError, OptionError, ShapeError
from tnkit.rng import generator

X = np.arange(12.0).reshape(3, 4)
MASK = np.array([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 0]], dtype=bool)


def same(a: Observations, b: Observations) -> bool:
    return torch.equal(a.indices, b.indices) and torch.equal(a.values, b.values) and a.shape == b.shape


def test_nan_mask_masked_array_and_coordinates_say_the_same() -> None:
    by_mask = Observations.from_dense(X, MASK)
    assert by_mask.n == MASK.sum()
    assert same(by_mask, Observations.from_dense(np.where(MASK, X, np.nan)))
    assert same(by_mask, Observations.from_dense(np.ma.masked_array(X, ~MASK)))
    assert same(by_mask, Observations.from_dense(X, MASK.astype(int)))
    assert same(by_mask, Observations(np.argwhere(MASK), X[MASK], X.shape))
    assert same(by_mask, Observations.from_dense(torch.from_numpy(X), torch.from_numpy(MASK)))
    assert same(by_mask, Observations.from_dense(X.tolist(), MASK.tolist()))


@given(st.permutations(range(7)))
def test_the_order_of_coordinates_does_not_matter(order: list[int]) -> None:
    indices, values = np.argwhere(MASK)[order], X[MASK][order]
    assert same(Observations(indices, values, X.shape), Observations.from_dense(X, MASK))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.floats(-1e6, 1e6)), min_size=1, max_size=12))
def test_positions_given_twice_are_averaged(entries: list[tuple[int, int, float]]) -> None:
    obs = Observations([e[:2] for e in entries], [e[2] for e in entries], (3, 2))
    again = Observations([e[:2] for e in reversed(entries)], [e[2] for e in reversed(entries)], (3, 2))
    assert same(obs, again)
    for (i, j), value in zip(obs.indices.tolist(), obs.values.tolist(), strict=True):
        given_here = [v for a, b, v in entries if (a, b) == (i, j)]
        assert value == pytest.approx(np.mean(given_here), rel=1e-12, abs=1e-9)
        if len(given_here) == 1:
            assert value == given_here[0]


def test_weights_count_where_positions_are_given_twice() -> None:
    obs = Observations([[0], [0], [2]], [1.0, 4.0, 7.0], (3,), weights=[1.0, 0.5, 0.25])
    assert obs.values.tolist() == [2.0, 7.0]
    assert obs.weights is not None
    assert obs.weights.tolist() == [1.0, 0.25]


def test_negative_indices_count_from_the_end() -> None:
    assert Observations([[-1, -4]], [5.0], (3, 4)).indices.tolist() == [[2, 0]]


def test_huge_shapes_are_never_made_dense() -> None:
    shape = (10**6,) * 6
    indices = np.array([[5, 0, 0, 0, 0, 999_999], [3, 1, 0, 0, 0, 0], [5, 0, 0, 0, 0, 7]])
    obs = Observations(indices, [1.0, 2.0, 3.0], shape)
    assert obs.indices.tolist() == sorted(indices.tolist())
    assert obs.values.tolist() == [2.0, 3.0, 1.0]
    assert not obs.complete


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_fill_puts_the_observed_values_in_bit_by_bit(dtype: torch.dtype) -> None:
    x = torch.randn(5, 6, generator=generator(0)).to(dtype)
    seen = torch.rand(5, 6, generator=generator(1)) < 0.5
    obs = Observations.from_dense(x, seen)
    filled = obs.back(obs.fill(torch.zeros(5, 6, dtype=obs.values.dtype)))
    assert filled.dtype == dtype
    assert torch.equal(filled[seen], x[seen])


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ((X, MASK[:2]), MaskError, r"mask has shape \(2, 4\), but x has shape \(3, 4\)"),
        ((X, MASK * 0.5), MaskError, "not bools"),
        ((X, MASK * 2), MaskError, "not bools"),
        ((X, MASK & False), MaskError, "other way round"),
        ((np.full((2, 2), np.nan),), MaskError, "every entry is missing"),
        ((np.where(MASK, np.inf, 0.0), MASK), DataError, "NaN or infinite"),
        ((np.where(MASK, np.nan, 0.0), MASK), DataError, "calls observed"),
        ((np.ma.masked_array(X, ~MASK), MASK), MaskError, "mask of its own"),
        ((X, np.ma.masked_array(MASK, MASK)), MaskError, "plain bool array"),
        ((np.zeros((0, 3)),), DataError, "empty"),
        ((np.float64(1.0),), DataError, "0-d"),
        ((X, MASK, X), OptionError, "outside 0 … 1"),
        ((X, MASK, np.ones(3)), ShapeError, "weights have shape"),
        ((X, MASK, np.zeros(X.shape)), MaskError, "All weights are 0"),
        ((X, MASK, np.ones(X.shape, complex)), OptionError, "complex"),
    ],
)
def test_dense_refusals(arguments: tuple[object, ...], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        Observations.from_dense(*arguments)


@pytest.mark.parametrize(
    ("indices", "values", "shape", "kind", "words"),
    [
        ([[0, 4]], [1.0], (3, 4), OptionError, "leaves? the shape"),
        ([[0, 0, 0]], [1.0], (3, 4), ShapeError, "do not fit 2 modes"),
        ([[0, 0.5]], [1.0], (3, 4), OptionError, "not whole"),
        ([[0, 0]], [1.0, 2.0], (3, 4), ShapeError, "1 indices but 2 values"),
        ([[0, 0]], [[1.0]], (3, 4), ShapeError, "one number for each"),
        ([[0, 0]], [np.nan], (3, 4), DataError, "NaN or infinite"),
        ([], [], (3, 4), MaskError, "nothing is observed"),
        ([[0, 0]], [1.0], (3, 0), ShapeError, "holds no entry"),
        ([[0, 0]], [1.0], 5, ShapeError, "not a sequence"),
    ],
)
def test_coordinate_refusals(indices: object, values: object, shape: object, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        Observations(indices, values, shape)  # type: ignore[arg-type]


def test_whole_pixels_are_held_out_where_whole_pixels_are_missing() -> None:
    seen = torch.rand(30, 20, 1, generator=generator(0)) < 0.4
    obs = Observations.from_dense(torch.zeros(30, 20, 3), seen.expand(30, 20, 3))
    assert whole_modes(obs) == (2,)
    held = split(obs, 0.1, generator(1))
    assert held is not None
    pixels = held.reshape(-1, 3)
    assert bool((pixels == pixels[:, :1]).all())
    assert int(held.sum()) == 3 * round(0.1 * int(seen.sum()))


def test_single_entries_are_held_out_where_single_entries_are_missing() -> None:
    obs = Observations.from_dense(torch.zeros(10, 10), torch.rand(10, 10, generator=generator(0)) < 0.5)
    assert whole_modes(obs) == ()
    held = split(obs, 0.2, generator(1))
    assert held is not None
    assert int(held.sum()) == round(0.2 * obs.n)
    assert split(Observations.from_dense(torch.ones(3, 3)), 0.2, generator(1)) is None


def test_repr_is_one_readable_line() -> None:
    assert repr(Observations.from_dense(X, MASK)) == (
        "Observations(shape=(3, 4), 7 of 12 entries, 58.3 %, torch.float64, cpu)"
    )


def test_none_and_na_are_missing_in_lists_and_objects() -> None:
    pandas = pytest.importorskip("pandas")
    for x in (
        [[1, 2, None], [2.5, None, 6]],
        np.array([[1, 2, None], [2.5, None, 6]], dtype=object),
        np.array([[1, 2, pandas.NA], [2.5, pandas.NA, 6]], dtype=object),
        [[Fraction(1), 2, None], [Decimal("2.5"), float("nan"), 6]],
    ):
        obs = Observations.from_dense(x)
        assert obs.indices.tolist() == [[0, 0], [0, 1], [1, 0], [1, 2]]
        assert obs.values.tolist() == [1.0, 2.0, 2.5, 6.0]
    assert Observations.from_dense([[True, None]]).values.tolist() == [1.0]
    assert Observations.from_dense([[1j, None]]).values.tolist() == [1j]
    with pytest.raises(DTypeError, match=r"'n/a' \(str\) at \(0, 1\)"):
        Observations.from_dense([[None, "n/a"]])
    with pytest.raises(MaskError, match="Nothing is observed"):
        Observations.from_dense([[None, None]])
    with pytest.raises(DataError, match="equal lengths"):
        Observations.from_dense([[None, 1.0], [2.0]])
    with pytest.raises(DataError, match="calls observed"):
        Observations.from_dense([[None, 1.0]], mask=[[True, True]])
