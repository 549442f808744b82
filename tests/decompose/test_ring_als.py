"""RingALS: planted rings, trains, pairs of modes, eps."""

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import tnkit as tk
from tnkit.decompose import error_floor, relative_error
from tnkit.decompose.ring_als import RingALS, train_ranks
from tnkit.decompose.sweep import LeastSquares
from tnkit.errors import OptionError
from tnkit.formats import RingSpec, random_format, random_tensors, resolve_ranks
from tnkit.network import Topology, contract
from tnkit.rng import generator

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


@pytest.mark.parametrize("seed", range(10))
def test_ten_of_ten_planted_rings(seed):
    x = random_format("tr", (10, 10, 10, 10), 3, rng=1000 + seed).to_dense()
    assert tk.decompose(x, "tr", rank=3, method="ring_als").rel_error < 1e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "rank"), [((6, 7, 8, 5), 2), ((4, 5, 6), 2), ((3,) * 5, 2), ((2,) * 6, 2), ((5, 6), 2)]
)
def test_planted_rings_of_any_order(shape, rank, dtype):
    x = random_format("tr", shape, rank, dtype=dtype, rng=5).to_dense()
    single = dtype in (torch.float32, torch.complex64)
    fit = tk.decompose(x, "tr", rank=rank, method="ring_als")
    assert relative_error(x, fit.tensor) < (1e-4 if single else 1e-8)
    by_eps = tk.decompose(x, "tr", eps=1e-3, method="ring_als")
    assert by_eps.n_params <= fit.n_params
    assert by_eps.status.ok


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(4, 5, 6), (3, 4, 2, 3), (5, 6), (1, 5, 1, 4), (7,), (1, 1, 1), (2,) * 6])
def test_the_largest_ranks_are_exact(shape, dtype):
    x = torch.randn(shape, dtype=dtype, generator=generator(1))
    layout = RingSpec().layout(shape)
    for ranks in (layout.max_ranks, layout.caps):
        fit = tk.decompose(x, "tr", rank=ranks, method="ring_als")
        assert relative_error(x, fit.tensor) < 1e-10
        assert all(r <= limit for r, limit in zip(fit.ranks, ranks, strict=True))
    assert tk.decompose(x, "tr", eps=0.0, method="ring_als").rel_error <= error_floor(dtype, x.ndim)


def test_two_modes_are_a_matrix():
    x = torch.randn(9, 8, dtype=torch.float64, generator=generator(0))
    s = torch.linalg.svdvals(x)
    fit = tk.decompose(x, "tr", rank=(2, 2), method="ring_als")
    assert fit.rel_error == pytest.approx(float(s[4:].norm() / s.norm()), rel=1e-9)


def test_trains_within_ring_ranks():
    layout = RingSpec().layout((3, 4, 5))
    assert train_ranks(layout, (1, 3, 5)) == (1, 3, 5)
    assert train_ranks(layout, (2, 2, 2)) is None
    assert train_ranks(RingSpec().layout((4,)), ()) == ()


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.sampled_from(DTYPES),
    st.sampled_from([0.0, 1e-2, 0.1, 0.5, 1.0]),
    st.integers(0, 1000),
)
@settings(max_examples=12)
def test_eps_is_kept_and_never_larger_than_the_direct_method(shape, dtype, eps, seed):
    x = torch.randn(shape, dtype=dtype, generator=generator(seed))
    fit = tk.decompose(x, "tr", eps=eps, method="ring_als")
    assert relative_error(x, fit.tensor) <= max(eps * (1 + 1e-6), error_floor(dtype, x.ndim))
    assert fit.n_params <= tk.decompose(x, "tr", eps=eps, method="ring_svd").n_params


def test_it_is_better_than_the_ring_svd_at_equal_ranks():
    x = torch.randn(6, 6, 6, 6, dtype=torch.float64, generator=generator(0))
    fit = tk.decompose(x, "tr", rank=3, method=RingALS(starts=3))
    direct = tk.decompose(x, "tr", rank=3, method="ring_svd")
    assert fit.rel_error <= direct.rel_error * (1 + 1e-9)
    again = tk.decompose(x, "tr", rank=3, method=RingALS(starts=3))
    torch.testing.assert_close(fit.tensor.to_dense(), again.tensor.to_dense(), rtol=1e-4, atol=1e-4)


def test_a_budget_goes_where_it_is_worth_most():
    x = random_format("tr", (12, 12, 12), (2, 8, 2), rng=0).to_dense()
    fit = tk.decompose(x, "tr", budget=440, method=RingALS(starts=2, max_steps=40))
    assert fit.n_params <= 440
    assert fit.rel_error < 1e-6


def test_wrong_options_are_refused():
    with pytest.raises(OptionError, match="start"):
        RingALS(start="eigen")
    with pytest.raises(OptionError, match="starts"):
        RingALS(starts=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "ranks"), [((9, 8), (2, 3)), ((30, 20, 25), (2, 5, 3)), ((12, 9, 8, 10), 3), ((6,) * 5, 2), ((5,) * 6, 2)]
)
def test_the_right_sides_are_the_dense_gradients(shape, ranks, dtype):
    layout = RingSpec().layout(shape)
    ranks = resolve_ranks(layout, ranks)
    x = torch.randn(shape, dtype=dtype, generator=generator(0))
    tensors = random_tensors(layout, ranks, x, generator(1))
    network = LeastSquares(x, layout.topology, float(x.norm()))
    seen = {k: side for k, side, _ in network.leaves(network.nodes(tensors), network.data)}
    for k, labels in enumerate(layout.topology.inputs):
        others = [
            (t.conj(), names)
            for j, (t, names) in enumerate(zip(tensors, layout.topology.inputs, strict=True))
            if j != k
        ]
        graph = Topology((*(names for _, names in others), layout.topology.output), labels)
        direct = contract(graph, [*(t for t, _ in others), x])
        kinds = network.labels[k]
        order = [labels.index(label) for label in (*kinds.batch, *kinds.bond, *kinds.free)]
        slack = 200 * torch.finfo(dtype).eps
        assert float((seen[k] - direct.permute(order)).norm()) <= slack * float(direct.norm())


@pytest.mark.parametrize(("shape", "ranks"), [((40, 41, 42), (2, 4, 3)), ((20, 18, 16, 14), (2, 3, 4, 3))])
def test_a_sweep_costs_two_products_with_the_array(shape, ranks):
    layout = RingSpec().layout(shape)
    x = torch.randn(shape, dtype=torch.float64, generator=generator(0))
    network = LeastSquares(x, layout.topology, float(x.norm()))
    tensors = random_tensors(layout, ranks, x, generator(1))
    with FlopCounterMode(display=False) as counter:
        network.sweep(tensors)
    d = len(shape)
    two = 4 * x.numel() * min(ranks[a] * ranks[b] for a in range(d) for b in range(a + 1, d))
    assert two <= counter.get_total_flops() <= 2 * two


def test_a_sweep_makes_no_other_copy_of_the_array():
    layout = RingSpec().layout((40, 50, 60))
    x = torch.randn(40, 50, 60, dtype=torch.float64, generator=generator(0))
    network = LeastSquares(x, layout.topology, float(x.norm()))
    tensors = random_tensors(layout, (2, 3, 2), x, generator(1))
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        network.sweep(tensors)
    copied = [event for event in seen.events() if event.name in ("aten::copy_", "aten::clone")]
    assert copied
    assert all(prod(shape) < x.numel() for event in copied for shape in event.input_shapes if shape)


def test_all_steps_are_counted():
    x = random_format("tr", (60, 50, 50), (2, 4, 2), rng=0).to_dense() + torch.randn(60, 50, 50, dtype=torch.float64)
    for steps in (1, 5, 30):
        fit = tk.decompose(x, "tr", rank=(2, 3, 2), method=RingALS(max_steps=steps, tol=0.0))
        assert [info.step for info in fit.history] == list(range(1, len(fit.history) + 1))
        assert len(fit.history) <= steps
        assert fit.rel_error == pytest.approx(relative_error(x, fit.tensor), rel=1e-6)


@pytest.mark.parametrize("compress", [True, False])
def test_with_and_without_compression(compress):
    x = random_format("tr", (70, 60, 50), (2, 4, 3), rng=0).to_dense()
    noise = torch.randn(x.shape, dtype=x.dtype, generator=generator(1))
    y = x + 0.05 * x.norm() / noise.norm() * noise
    fit = tk.decompose(y, "tr", rank=(2, 4, 3), method=RingALS(max_steps=40, compress=compress))
    assert fit.rel_error == pytest.approx(relative_error(y, fit.tensor), rel=1e-8)
    assert fit.rel_error < 0.0505


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_of_nodes_with_equal_labels_are_kept_apart(dtype):
    """Partial products lie in memory that is used again; right sides do not."""
    graph = Topology.parse("a b, a b, a i, b j, b k -> i j k")
    gen = generator(0)
    x = torch.randn(20, 16, 18, dtype=dtype, generator=gen)
    sizes = {"a": 7, "b": 5, "i": 20, "j": 16, "k": 18}
    nodes = [torch.randn([sizes[label] for label in labels], dtype=dtype, generator=gen) for labels in graph.inputs]
    network = LeastSquares(x, graph, float(x.norm()))
    seen = {k: side for k, side, _ in network.leaves(list(nodes), x)}
    for k, labels in enumerate(graph.inputs):
        others = Topology((*(names for j, names in enumerate(graph.inputs) if j != k), graph.output), labels)
        direct = contract(others, [*(t.conj() for j, t in enumerate(nodes) if j != k), x])
        kinds = network.labels[k]
        order = [labels.index(label) for label in (*kinds.batch, *kinds.bond, *kinds.free)]
        slack = 500 * torch.finfo(dtype).eps
        assert float((seen[k] - direct.permute(order)).norm()) <= slack * float(direct.norm())


@pytest.mark.parametrize("method", [tk.RingSVD(), tk.RingALS(start="svd")])
def test_when_the_time_is_up_the_train_is_the_answer(method: object) -> None:
    x = torch.randn(6, 6, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fit = tk.decompose(x, "tr", rank=5, method=method, time_limit_s=1e-9, rng=0)
    train = tk.decompose(x, "tt", rank=5)
    assert fit.rel_error <= train.rel_error * (1 + 1e-6)
    assert not fit.history
