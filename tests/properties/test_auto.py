"""Property 15: "auto" is never larger, at equal error, than any fixed format or the best unfolding."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tnkit as tk
from tests.properties.data import array, kinds, shapes, true_error
from tnkit.registry import FORMATS
from tnkit.search import unfoldings


@settings(max_examples=4)
@given(shape=shapes(least=2, most=4), kind=kinds(), eps=st.sampled_from([0.02, 0.1, 0.3]), seed=st.integers(0, 1000))
def test_auto_is_never_larger_than_a_fixed_format(shape, kind, eps, seed):
    x = array(shape, kind, seed)
    found = tk.decompose(x, "auto", eps=eps)
    assert true_error(x, found.tensor.to_dense()) <= eps * (1 + 1e-6)
    for name in FORMATS:
        fixed = tk.decompose(x, name, eps=eps)
        if fixed.rel_error <= eps:
            assert found.n_params <= fixed.n_params, name
    for rows in unfoldings(len(shape)):
        assert found.n_params <= tk.decompose(x, tk.LowRankSpec(row_modes=rows), eps=eps).n_params, rows


@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_auto_within_a_budget_is_never_less_accurate(fraction):
    x = array((6, 7, 8), "smooth", 0)
    found = tk.decompose(x, "auto", budget=fraction)
    assert found.n_params <= fraction * x.numel()
    for name in ("tt", "tucker", "lowrank", "ht"):
        layout = FORMATS.get(name).layout(tuple(x.shape))
        if layout.n_params((1,) * len(layout.bonds)) > fraction * x.numel():
            continue
        assert found.rel_error <= tk.decompose(x, name, budget=fraction).rel_error * (1 + 1e-9)


def test_the_search_gives_a_front():
    found = tk.search(array((6, 7, 8), "planted", 0), eps=0.05)
    sizes = [c.fit.n_params for c in found.front]
    errors = [c.fit.rel_error for c in found.front]
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert found.best.fit.rel_error <= 0.05
    assert "tt" in repr(found)
