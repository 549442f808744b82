"""What may be written for rank, and what it becomes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tnkit as tk
from tnkit.formats import as_spec, grow_within, ranks_within, resolve_ranks
from tnkit.registry import FORMATS
from tnkit.testing.strategies import shapes, specs

TT = as_spec("tt").layout((4, 8, 8, 4))
RING = as_spec("tr").layout((4, 8, 8, 4))
TUCKER = as_spec("tucker").layout((4, 5, 6))
EQUATION = as_spec("ia,ajb,bk->ijk").layout((4, 5, 6))


@pytest.mark.parametrize(
    ("layout", "rank", "ranks"),
    [
        (TT, 10, (4, 10, 4)),
        (TT, (2, 3, 4), (2, 3, 4)),
        (TT, (1, 2, 3, 4, 1), (2, 3, 4)),
        (TT, [2, 3, 4], (2, 3, 4)),
        (TT, {"r2": 7}, (4, 7, 4)),
        (TT, {}, (4, 32, 4)),
        (RING, 3, (3, 3, 3, 3)),
        (RING, (2, 3, 4, 5), (2, 3, 4, 5)),
        (RING, (2, 3, 4, 5, 2), (2, 3, 4, 5)),
        (TUCKER, 100, (4, 5, 6)),
        (TUCKER, (4, 5, 6), (4, 5, 6)),
        (EQUATION, {"a": 2, "b": 3}, (2, 3)),
        (as_spec("cp").layout((4, 5)), 3, (3,)),
        (as_spec("cp").layout((4, 5)), (3,), (3,)),
        (as_spec("monarch").layout((16, 16)), 5, (1,)),
        (as_spec("tt").layout((7,)), 5, ()),
        (as_spec("tt").layout((7,)), (), ()),
    ],
)
def test_resolved(layout, rank, ranks):
    assert resolve_ranks(layout, rank) == ranks


@pytest.mark.parametrize(
    ("layout", "rank", "words"),
    [
        (
            TT,
            (2, 40, 2),
            r"tt rank 40 at bond r2 exceeds 32, .*\(4, 8, 8, 4\) admits there. Use rank<=32, or give eps=",
        ),
        (TT, 0, "tt rank 0 is not allowed. Ranks are whole numbers of 1 or more"),
        (TT, (2, 0, 2), "tt rank 0 at bond r2 is not allowed"),
        (TT, (2, 2.5, 2), "tt rank 2.5 at bond r2 is not allowed"),
        (TT, -3, "tt rank -3 is not allowed"),
        (TT, True, "is a bool"),
        (TT, (True, 2, 2), "rank True at bond r1 is not allowed"),
        (TT, (2, 2), r"has 2 entries, but shape .* has 3 bonds \(r1, r2, r3\)"),
        (TT, (2, 2, 2, 2, 2), "has 5 entries"),
        (RING, (2, 3, 4, 5, 3), "has 5 entries"),
        (TT, {"r9": 2}, "has no bond 'r9'. Its bonds: r1, r2, r3"),
        (TT, {"r1": 40}, "rank 40 at bond r1 exceeds 4"),
        (TT, "full", "rank='full' is unknown"),
        (TT, None, "rank=None is not a rank"),
        (TT, 0.0, "must be above 0"),
        (TT, -0.5, "must be above 0"),
        (TT, 10.0, "is a float: 10 times the dense entries. For that rank give an int: 10"),
        (TT, float("nan"), "must be above 0"),
        (TT, float("inf"), "must be above 0 and finite"),
    ],
)
def test_refused(layout, rank, words):
    with pytest.raises(tk.RankError, match=words) as raised:
        resolve_ranks(layout, rank)
    assert isinstance(raised.value, ValueError)


def test_a_fraction_too_small_for_anything():
    with pytest.raises(tk.BudgetError, match=r"needs 24 parameters at rank 1, but the budget is 10. Allow at least 24"):
        resolve_ranks(TT, 0.01)


@given(spec=specs(), shape=shapes(min_order=2, max_order=5), fraction=st.floats(0.05, 1.5))
def test_a_fraction_is_kept_and_used(spec, shape, fraction):
    layout = as_spec(spec).layout(shape)
    limit = int(fraction * layout.dense_size)
    if layout.n_params((1,) * len(layout.bonds)) > limit:
        with pytest.raises(tk.BudgetError):
            resolve_ranks(layout, fraction)
        return
    ranks = resolve_ranks(layout, fraction)
    assert layout.n_params(ranks) <= limit
    for k, (rank, cap) in enumerate(zip(ranks, layout.caps, strict=True)):
        grown = (*ranks[:k], rank + 1, *ranks[k + 1 :])
        assert rank == cap or layout.n_params(grown) > limit


def test_same_is_all_the_dense_entries():
    assert resolve_ranks(TUCKER, "same") == resolve_ranks(TUCKER, 1.0)
    assert TUCKER.n_params(resolve_ranks(TUCKER, "same")) <= 120


def test_growing_keeps_to_limits():
    assert grow_within(TT, (1, 1, 1), 10**6) == TT.caps
    assert grow_within(TT, (1, 1, 1), 10**6, caps=(2, 3, 2)) == (2, 3, 2)
    assert ranks_within(TT, 10**6) == TT.caps


@given(shape=shapes(), name=st.sampled_from(FORMATS.names()), rank=st.integers(1, 50))
def test_an_int_is_clipped_bond_by_bond(shape, name, rank):
    layout = as_spec(name).layout(shape)
    ranks = resolve_ranks(layout, rank)
    assert ranks == tuple(min(rank, cap) for cap in layout.caps)
    value = tk.random_format(name, shape, rank, rng=0)
    assert value.ranks == ranks
    assert value.n_params == layout.n_params(ranks)
    assert value.shape == shape
