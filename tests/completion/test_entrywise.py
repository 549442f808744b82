"""The network at its entries against dense contraction, and the rows of a node against a plain least-squares solver."""

import itertools
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tnkit.completion.blocks import Blocks, segment_sum
from tnkit.completion.entrywise import Entrywise
from tnkit.completion.rows import Data, Rows, fit_rows, whole_gram
from tnkit.completion.sweep import balanced, grown, shrunk, sweep
from tnkit.formats import BLASTSpec, BTDSpec, FormatSpec, HTSpec, Layout, as_spec, random_tensors, resolve_ranks
from tnkit.formats import TTMatrixSpec as MPO
from tnkit.rng import generator

CASES: list[tuple[str | FormatSpec, tuple[int, ...]]] = [
    ("tt", (3, 4, 5)),
    ("tt", (6,)),
    ("tr", (3, 4, 5)),
    ("tucker", (3, 4, 5)),
    ("cp", (3, 4, 5)),
    ("ht", (3, 4, 2, 3)),
    (HTSpec(tree="linear"), (3, 4, 2, 3)),
    (BTDSpec(terms=2), (3, 4, 5)),
    ("lowrank", (4, 6)),
    ("ttm", (4, 6)),
    (MPO(), (5, 7)),
    ("btt", (4, 6)),
    ("monarch", (4, 6)),
    (BLASTSpec(blocks=(2, 2)), (4, 6)),
    ("kron", (4, 6)),
    ("tubal", (3, 4, 5)),
    ("ia,ajb,bk,kc->ijc", (3, 4, 5)),
    ("iab,jab->ij", (3, 4)),
    ("iz,ja->ij", (3, 4)),
]
IDS = [str(case[0]) + str(case[1]) for case in CASES]


def setting(
    spec: str | FormatSpec, shape: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> tuple[Layout, Entrywise, tuple[torch.Tensor, ...], torch.Tensor]:
    """A layout, the network at 40 random entries, random tensors, and the entries."""
    layout = as_spec(spec).layout(shape)
    gen = generator(0)
    entries = torch.stack([torch.randint(n, (40,), generator=gen) for n in shape], -1)
    net = Entrywise.of(layout.topology, layout.sizes, layout.inner_plan.positions(entries))
    tensors = random_tensors(layout, resolve_ranks(layout, 2), torch.empty(0, dtype=dtype), gen)
    return layout, net, tensors, entries


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("spec", "shape"), CASES, ids=IDS)
def test_values_are_those_of_the_dense_tensor(spec: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    layout, net, tensors, entries = setting(spec, shape, dtype)
    dense = layout.build(tensors).to_dense()
    torch.testing.assert_close(net.values(tensors), dense[tuple(entries.unbind(-1))])


@pytest.mark.parametrize(("spec", "shape"), CASES, ids=IDS)
def test_a_sweep_never_makes_the_error_larger(spec: str, shape: tuple[int, ...]) -> None:
    _, net, tensors, _ = setting(spec, shape)
    data = Data(torch.randn(40, dtype=torch.float64, generator=generator(1)))
    errors = [float((data.values - net.values(tensors)).norm())]
    for _ in range(3):
        tensors, _ = sweep(net, tensors, data, lambda unknowns, rows: 0.0)
        errors.append(float((data.values - net.values(tensors)).norm()))
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(errors))


@pytest.mark.parametrize(("spec", "shape"), CASES, ids=IDS)
def test_products_that_are_not_stored_are_the_same(spec: str, shape: tuple[int, ...]) -> None:
    layout, stored, tensors, entries = setting(spec, shape)
    made = Entrywise.of(layout.topology, layout.sizes, layout.inner_plan.positions(entries), many=1)
    data = Data(torch.randn(40, dtype=torch.float64, generator=generator(1)), torch.rand(40, dtype=torch.float64))
    torch.testing.assert_close(made.values(tensors), stored.values(tensors))
    for net in (stored, made):
        assert bool(net.flats) == (net is made)
    one, _ = sweep(stored, tensors, data, lambda unknowns, rows: 0.1)
    other, _ = sweep(made, tensors, data, lambda unknowns, rows: 0.1)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_rows_are_the_weighted_least_squares_solution(dtype: torch.dtype, weighted: bool) -> None:
    layout, _, tensors, _ = setting("tt", (3, 4, 5), dtype)
    entries = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(5))
    net = Entrywise.of(layout.topology, layout.sizes, entries)
    y = torch.randn(60, dtype=dtype, generator=generator(3))
    w = torch.rand(60, dtype=torch.float64, generator=generator(4)) if weighted else torch.ones(60, dtype=torch.float64)
    data = Data(y, w.sqrt() if weighted else None)
    assert net.order == (0, 1, 2)
    nodes = net.full(tensors)
    left = net.absorb(net.start(nodes[0]), 0, nodes[0], net.fronts[1])
    got, residual2 = fit_rows(Rows(net, 1, nodes[1], left, net.rights(nodes)[1], data), 0.0, None)
    before = y - net.values(tensors)
    assert float(residual2) == pytest.approx(float((w * before.abs() ** 2).sum()))
    for j in range(4):
        here = entries[:, 1] == j
        a = tensors[0][0, entries[here, 0], :]
        b = tensors[2][:, entries[here, 2], 0].T
        h = (a[:, :, None] * b[:, None, :]).reshape(-1, 4)
        root = w[here].sqrt().to(dtype)
        expected = torch.linalg.lstsq(root[:, None] * h, root * y[here]).solution
        torch.testing.assert_close(got[:, j, :].reshape(-1), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("spec", "shape"), CASES, ids=IDS)
def test_the_whole_gram_is_the_norm_of_the_array(spec: str, shape: tuple[int, ...]) -> None:
    layout, net, tensors, _ = setting(spec, shape)
    nodes = net.full(tensors)
    inner = layout.inner_plan.out_shape
    every = torch.cartesian_prod(*(torch.arange(n) for n in inner)).reshape(-1, len(inner))
    norm2 = float(Entrywise.of(layout.topology, layout.sizes, every).values(tensors).abs().square().sum())
    for node in layout.topology.parameters:
        table = net.table(node, nodes[node])
        gram = whole_gram(net, node, nodes)
        assert gram.shape[0] in (1, table.shape[0])
        quadratic = (table[:, None, :].conj() @ gram.to(table.dtype) @ table[:, :, None]).sum()
        assert float(quadratic) == pytest.approx(norm2, rel=1e-9)


@pytest.mark.parametrize(("spec", "shape"), CASES[:9], ids=IDS[:9])
def test_growing_by_nothing_and_shrinking_back_keeps_the_tensor(spec: str, shape: tuple[int, ...]) -> None:
    layout, _, tensors, _ = setting(spec, shape)
    small = layout.ranks_of(tensors)
    large = tuple(min(r + 1, cap) for r, cap in zip(small, layout.caps, strict=True))
    wide = grown(layout, tensors, large, 0.0, generator(0))
    dense = layout.build(tensors).to_dense()
    assert layout.ranks_of(wide) == large
    torch.testing.assert_close(layout.build(wide).to_dense(), dense)
    back = shrunk(layout, wide, small)
    assert layout.ranks_of(back) == small
    torch.testing.assert_close(layout.build(back).to_dense(), dense)


def test_balancing_keeps_the_tensor() -> None:
    layout, _, tensors, _ = setting("tt", (3, 4, 5))
    uneven = (tensors[0] * 1e8, tensors[1] * 1e-5, tensors[2] * 1e-3)
    even = balanced(uneven)
    torch.testing.assert_close(layout.build(even).to_dense(), layout.build(tensors).to_dense())
    sizes = [float(t.square().mean()) for t in even]
    assert max(sizes) == pytest.approx(min(sizes))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_blocks_hold_every_entry_once_and_sums_over_rows_are_right(rows: list[int]) -> None:
    row = torch.tensor(rows)
    blocks = Blocks.of(row, 7)
    assert blocks.rows.tolist() == sorted(set(rows))
    assert int(blocks.real.sum()) == len(rows)
    assert blocks.slots.flatten()[blocks.place].tolist() == list(range(len(rows)))
    assert blocks.padded == (blocks.slots.numel() > len(rows))
    owners = blocks.rows[blocks.owner][:, None].expand_as(blocks.slots)[blocks.real]
    assert torch.equal(row[blocks.slots[blocks.real]], owners)
    values = torch.randn(len(rows), dtype=torch.float64, generator=generator(0))
    picked = torch.where(blocks.real, values[blocks.slots], 0.0).sum(1)
    sums = segment_sum(picked, blocks.owner, len(blocks.rows))
    expected = torch.zeros(7, dtype=torch.float64).index_add_(0, row, values)[blocks.rows]
    torch.testing.assert_close(sums, expected)
    assert all(blocks.owner_of(p) == int(o) for p, o in enumerate(blocks.owner))


def test_large_rows_by_conjugate_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same data, gradients come to the error of the normal equations."""
    _, net, tensors, _ = setting("tucker", (6, 7, 8))
    data = Data(net.values(random_like(tensors)))
    exact, _ = sweep(net, tensors, data, lambda unknowns, rows: 0.0)
    monkeypatch.setattr("tnkit.completion.rows.is_large", lambda n, m: True)
    close, _ = sweep(net, tensors, data, lambda unknowns, rows: 0.0)
    first, second = (float((data.values - net.values(t)).norm() / data.values.norm()) for t in (exact, close))
    assert second <= first + 0.05
    assert prod(close[0].shape) == prod(tensors[0].shape)


def random_like(tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    gen = generator(5)
    return tuple(torch.randn(t.shape, dtype=t.dtype, generator=gen) for t in tensors)
