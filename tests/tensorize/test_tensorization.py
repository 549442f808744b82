"""Pad, reshape and permute plans, their inverse, and factors of sizes."""

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tnkit as tk
from tnkit.tensorize import Tensorization, balanced_factors, factors_for, prime_factors
from tnkit.testing.strategies import shapes


@st.composite
def plans(draw):
    plan = Tensorization.start(draw(shapes(max_order=4, max_entries=100)))
    for kind in draw(st.lists(st.sampled_from(["pad", "reshape", "permute"]), max_size=5)):
        now = plan.out_shape
        if kind == "pad":
            plan = plan.pad([n + draw(st.integers(0, 2)) for n in now])
        elif kind == "reshape":
            flat = draw(st.permutations([p for n in now for p in prime_factors(n)]))
            cut = draw(st.integers(0, len(flat)))
            plan = plan.reshape((prod(flat[:cut]), *flat[cut:]) if draw(st.booleans()) else flat)
        else:
            plan = plan.permute(draw(st.permutations(range(len(now)))))
        if prod(plan.out_shape) > 3000:
            break
    return plan


@given(plans(), st.integers(0, 100))
def test_there_and_back(plan, seed):
    x = torch.randn(plan.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    kept = x.clone()
    y = plan.apply(x)
    assert tuple(y.shape) == plan.out_shape
    assert torch.equal(plan.invert(y), x)
    assert torch.equal(x, kept)
    assert torch.linalg.vector_norm(y).isclose(torch.linalg.vector_norm(x))
    assert plan.pads == (prod(plan.out_shape) != prod(plan.shape))
    assert plan.is_identity == (plan.moves == ())


@given(plans(), st.integers(0, 100))
def test_positions(plan, seed):
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(plan.shape, generator=gen, dtype=torch.float64)
    indices = torch.stack([torch.randint(0, n, (9,), generator=gen) for n in plan.shape], 1)
    found = plan.apply(x)[tuple(plan.positions(indices).unbind(1))]
    assert torch.equal(found, x[tuple(indices.unbind(1))])


def test_steps_that_do_nothing_are_left_out():
    plan = Tensorization.start((4, 6)).pad((4, 6)).reshape((4, 6)).permute((0, 1))
    assert plan.is_identity
    assert plan == Tensorization.start((4, 6))
    assert str(plan) == "(4, 6)"
    longer = plan.reshape((2, 2, 6)).permute((1, 0, 2))
    assert str(longer) == "(4, 6) -> reshape (2, 2, 6) -> permute (1, 0, 2)"


def test_views_where_they_can_be():
    x = torch.randn(4, 6)
    plan = Tensorization.start((4, 6)).reshape((2, 2, 6)).permute((2, 0, 1))
    assert plan.apply(x).data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda p: p.pad((3, 6)), "Cannot pad shape .4, 6. to .3, 6.: give one size a mode, none smaller"),
        (lambda p: p.pad((4, 6, 1)), "Cannot pad"),
        (lambda p: p.reshape((5, 5)), r"Cannot reshape \(4, 6\) \(24 entries\) to \(5, 5\) \(25\); pad first"),
        (lambda p: p.reshape((-4, -6)), "Cannot reshape"),
        (lambda p: p.permute((0, 0)), "is not a permutation of the 2 modes"),
        (lambda p: p.apply(torch.ones(6, 4)), r"This plan is for shape \(4, 6\), but the array has shape \(6, 4\)"),
    ],
)
def test_refused(step, words):
    with pytest.raises(tk.ShapeError, match=words):
        step(Tensorization.start((4, 6)))


@given(st.integers(1, 3000), st.integers(1, 4))
def test_factors(n, parts):
    assert prod(prime_factors(n)) == n
    exact = balanced_factors(n, parts)
    assert len(exact) == parts
    assert prod(exact) == n
    assert list(exact) == sorted(exact, reverse=True)
    near = factors_for(n, parts)
    assert len(near) == parts
    assert prod(near) >= n
    assert prod(near) <= 1.5 * n + 8
    assert near[0] <= max(2.0 * prod(near) ** (1 / parts), 1)


def test_factors_of_known_sizes():
    assert balanced_factors(384, 3) == (8, 8, 6)
    assert balanced_factors(768, 2) == (32, 24)
    assert balanced_factors(7, 2) == (7, 1)
    assert factors_for(7, 2) == (4, 2)
    assert factors_for(1, 3) == (1, 1, 1)
    assert prime_factors(1) == (1,)
    assert prime_factors(97) == (97,)


def test_gradients_and_vmap_go_through():
    plan = Tensorization.start((3, 5)).pad((4, 6)).reshape((2, 2, 6))
    x = torch.randn(7, 3, 5, requires_grad=True)
    y = torch.vmap(plan.apply)(x)
    assert y.shape == (7, 2, 2, 6)
    y.square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x)
