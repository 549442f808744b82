import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tnkit.linalg import rank_for_tail, tails

values = st.lists(st.floats(0, 1e6), min_size=1, max_size=30).map(lambda v: sorted(v, reverse=True))


@given(values)
def test_tails_are_the_sums_from_the_small_end(v: list[float]) -> None:
    t = tails(torch.tensor(v, dtype=torch.float64))
    assert t.shape == (len(v) + 1,)
    assert t[-1] == 0
    assert np.allclose(t.numpy(), [sum(v[r:]) for r in range(len(v) + 1)])
    assert (t.diff() <= 0).all()


@given(values, st.floats(0, 1e6))
def test_rank_is_the_smallest_that_fits(v: list[float], tail2: float) -> None:
    t = tails(torch.tensor(v, dtype=torch.float64))
    r = rank_for_tail(torch.tensor(v, dtype=torch.float64), tail2)
    assert 1 <= r <= len(v)
    assert t[r] <= tail2
    assert r == 1 or t[r - 1] > tail2


def test_edges() -> None:
    s2 = torch.tensor([1.0, 1e-20, 1e-20])
    assert rank_for_tail(s2, 0.0) == 3
    assert rank_for_tail(s2, -1.0) == 3
    assert rank_for_tail(s2, 2.0, floor=0) == 0
    assert rank_for_tail(s2, 2.0, floor=2) == 2
    assert rank_for_tail(s2, 2.0, floor=9) == 3
    assert rank_for_tail(torch.zeros(3), 0.0) == 1
    assert float(tails(s2)[1]) == pytest.approx(2e-20)
    assert tails(torch.ones(2, 3)).tolist() == [[3, 2, 1, 0], [3, 2, 1, 0]]
    assert tails(torch.tensor([1.0, -1e-9])).tolist() == [1, 0, 0]
