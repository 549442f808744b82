"""Property 5: a size budget is never passed, and it is used."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tnkit as tk
from tests.properties.data import array, kinds, shapes
from tests.properties.test_eps import DIRECT, ITERATIVE
from tnkit.registry import FORMATS


def check_budget(name: str, x: torch.Tensor, fraction: float) -> None:
    layout = FORMATS.get(name).layout(tuple(x.shape))
    limit = int(fraction * x.numel())
    assume(layout.n_params((1,) * len(layout.bonds)) <= limit)
    fit = tk.decompose(x, name, budget=limit)
    inner = fit.tensor
    assert inner.n_params <= limit * (2 if x.is_complex() else 1)
    ranks = inner.ranks
    if fit.rel_error < 1e-12 or inner.n_params >= 0.9 * limit:
        return
    for k, cap in enumerate(layout.caps):
        if ranks[k] < cap:
            grown = tuple(r + (j == k) for j, r in enumerate(ranks))
            assert layout.n_params(grown) > limit or useless(layout, grown, k), (
                ranks,
                layout.caps,
                limit,
                inner.n_params,
            )


def useless(layout, ranks, k) -> bool:
    """Whether a rank is above what its tensors' other sides admit, so that growing it alone changes nothing."""
    for node in layout.topology.nodes_of(layout.bonds[k]):
        sizes = layout.label_sizes(ranks)
        others = 1
        for label in layout.topology.inputs[node]:
            others *= sizes[label] if label != layout.bonds[k] else 1
        if ranks[k] > others:
            return True
    return False


@pytest.mark.parametrize("name", DIRECT)
@settings(max_examples=12)
@given(shape=shapes(least=2), kind=kinds(), fraction=st.floats(0.1, 1.2), seed=st.integers(0, 10**6))
def test_a_budget_is_a_bound_that_is_used(name, shape, kind, fraction, seed):
    check_budget(name, array(shape, kind, seed), fraction)


@pytest.mark.parametrize("name", ITERATIVE)
@settings(max_examples=2)
@given(shape=shapes(least=2, most=4), fraction=st.floats(0.2, 1.0), seed=st.integers(0, 10**6))
def test_a_budget_is_a_bound_for_iterative_methods(name, shape, fraction, seed):
    check_budget(name, array(shape, "smooth", seed), fraction)


@pytest.mark.parametrize("name", DIRECT)
@settings(max_examples=8)
@given(shape=shapes(least=2), kind=kinds(), seed=st.integers(0, 10**6))
def test_all_limits_together(name, shape, kind, seed):
    x = array(shape, kind, seed)
    layout = FORMATS.get(name).layout(shape)
    limit = max(x.numel() // 2, layout.n_params((1,) * len(layout.bonds)))
    fit = tk.decompose(x, name, rank=3, eps=0.2, budget=limit)
    assert fit.n_params <= limit
    assert all(r <= 3 for r in fit.ranks)
    assert fit.rel_error <= 0.2 * (1 + 1e-6) or fit.status.name == "eps_not_reached"


def test_a_complex_number_counts_twice():
    x = array((6, 6, 6), "noise", 0, torch.complex128)
    fit = tk.decompose(x, "tt", budget=200)
    assert fit.n_params <= 200
    half = tk.decompose(x, "tt", budget=tk.Budget(bytes=1600))
    assert half.nbytes <= 1600
