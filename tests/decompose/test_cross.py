"""Cross interpolation: planted tensors, the estimate against the truth, economy, limits, odd shapes and functions."""

import time
from dataclasses import dataclass, field
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnkit as tk
from tnkit.decompose.cross_sample import TreeTensor, draw_sample, uniform_points, uniform_sample
from tnkit.decompose.cross_search import climb, unseen
from tnkit.decompose.cross_state import add_pivot, first_pivot, interpolation, local_residual, node_tensors
from tnkit.decompose.cross_tree import comb, format_tensors, pivot_tree
from tnkit.formats import as_spec

FORMATS = ("tt", "tr", "tucker", "ht")


def hilbert(i):
    return 1.0 / (1.0 + i.sum(1))


def true_error(f, fit):
    shape = fit.tensor.shape
    x = torch.from_numpy(np.asarray(f(np.indices(shape).reshape(len(shape), -1).T)) * 1.0).reshape(shape)
    return float(torch.linalg.vector_norm(x - fit.tensor.to_dense()) / torch.linalg.vector_norm(x))


def planted(shape, rank, seed, dtype=torch.float64):
    tensor = tk.random_format("tt", shape, rank, rng=seed, dtype=dtype)
    return tensor, lambda i: tensor.at(i).numpy()


# --- promises ---------------------------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(
    st.lists(st.integers(2, 14), min_size=4, max_size=6).filter(lambda n: 2000 < prod(n) < 150_000),
    st.integers(1, 3),
    st.integers(0, 10_000),
    st.sampled_from([torch.float64, torch.complex128]),
)
def test_planted_trains_are_found(shape, rank, seed, dtype):
    tensor, f = planted(tuple(shape), rank, seed, dtype)
    fit = tk.decompose(f, "tt", shape=shape, eps=1e-9)
    assert fit.tensor.dtype == dtype
    assert fit.ranks == tensor.ranks
    assert true_error(f, fit) <= 1e-9
    assert fit.status.ok
    assert fit.evaluations <= prod(shape)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("eps", [1e-2, 1e-5, 1e-9])
def test_the_estimate_is_the_truth(name, eps):
    fit = tk.decompose(hilbert, name, shape=(22, 20, 21, 23), eps=eps)
    true = true_error(hilbert, fit)
    assert true <= eps
    assert fit.error_kind == "estimate"
    assert true <= 1.2 * fit.rel_error
    assert fit.rel_error <= 1.5 * true
    assert fit.status.name == "reached"
    assert fit.evaluations < prod(fit.tensor.shape) / 20


@pytest.mark.parametrize("seed", range(4))
def test_peaks_are_found(seed):
    rng = np.random.default_rng(7)
    centres, heights = rng.uniform(0.2, 0.8, (4, 4)), rng.uniform(0.5, 1.0, 4)

    def f(i):
        x = i / 23.0
        return sum(h * np.exp(-(((x - c) / 0.08) ** 2).sum(1) / 2) for c, h in zip(centres, heights, strict=True))

    fit = tk.decompose(f, "tt", shape=(24,) * 4, eps=1e-6, rng=seed)
    assert true_error(f, fit) <= 1e-6
    assert fit.ranks == (4, 4, 4)


def test_few_of_many_entries():
    fit = tk.decompose(hilbert, "tt", shape=(50,) * 6, eps=1e-8)
    assert fit.evaluations < 40_000
    assert fit.status.ok
    points = np.random.default_rng(0).integers(50, size=(20_000, 6))
    off = np.linalg.norm(fit.tensor.at(points).numpy() - hilbert(points)) / np.linalg.norm(hilbert(points))
    assert off <= 3e-8  # a sample of errors with a heavy tail


@pytest.mark.parametrize("kind", ["smooth", "root", "resonance"])
def test_one_index_for_each_bit(kind):
    weight = 0.5 ** np.arange(1, 17)
    functions = {
        "smooth": lambda x: np.sin(20 * x),
        "root": lambda x: np.sin(20 * x) + np.sqrt(x),
        "resonance": lambda x: 1.0 / (1e-4 + (x - 0.3) ** 2),
    }

    def f(i):
        return functions[kind](i @ weight)

    fit = tk.decompose(f, "tt", shape=(2,) * 16, eps=1e-7)
    assert true_error(f, fit) <= 1e-7
    assert fit.evaluations < 2**14


def test_a_domain_beyond_every_integer():
    fit = tk.decompose(lambda i: np.exp(-i.sum(1) / 3000.0), "tt", shape=(1000,) * 10, eps=1e-6)
    assert fit.ranks == (1,) * 9
    assert fit.status.ok
    points = np.random.default_rng(0).integers(1000, size=(100, 10))
    assert np.allclose(fit.tensor.at(points).numpy(), np.exp(-points.sum(1) / 3000.0), rtol=1e-9)


@pytest.mark.parametrize(("dtype", "eps"), [(np.float32, 1e-4), (np.complex64, 1e-4), (np.complex128, 1e-8)])
def test_dtypes(dtype, eps):
    def f(i):
        value = hilbert(i) * (np.exp(0.2j * i[:, 0]) if np.issubdtype(dtype, np.complexfloating) else 1.0)
        return value.astype(dtype)

    fit = tk.decompose(f, "tt", shape=(20,) * 4, eps=eps)
    assert true_error(f, fit) <= eps
    assert np.asarray(fit.tensor).dtype == dtype


@pytest.mark.parametrize("scale", [2.0**-660, 2.0**-100, 2.0**100, 2.0**660])
def test_scales(scale):
    plain = tk.decompose(hilbert, "tt", shape=(20,) * 4, eps=1e-6)
    fit = tk.decompose(lambda i: scale * hilbert(i), "tt", shape=(20,) * 4, eps=1e-6)
    assert fit.ranks == plain.ranks
    assert fit.rel_error == plain.rel_error
    assert torch.equal(fit.tensor.to_dense() / scale, plain.tensor.to_dense())


def test_the_same_call_gives_the_same_answer():
    first, second, other = (tk.decompose(hilbert, "tt", shape=(20,) * 4, eps=1e-6, rng=k) for k in (3, 3, 4))
    assert first.evaluations == second.evaluations
    assert all(torch.equal(a, b) for a, b in zip(first.tensor.tensors(), second.tensor.tensors(), strict=True))
    assert other.rel_error <= 1e-6


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_ranks(name):
    fit = tk.decompose(hilbert, name, shape=(20,) * 4, rank=3)
    best = tk.decompose(hilbert(np.indices((20,) * 4).reshape(4, -1).T).reshape((20,) * 4), name, rank=3)
    assert max(fit.ranks) <= 3
    true = true_error(hilbert, fit)
    assert true <= 1.3 * max(best.rel_error, 1e-3) if name != "tr" else true < 0.1
    assert fit.rel_error == pytest.approx(true, rel=0.2)


def test_a_size():
    fit = tk.decompose(hilbert, "tt", shape=(20,) * 4, budget=900)
    assert fit.n_params <= 900
    assert true_error(hilbert, fit) == pytest.approx(fit.rel_error, rel=0.2)


def test_an_eps_that_the_ranks_do_not_reach():
    fit = tk.decompose(hilbert, "tt", shape=(20,) * 4, rank=2, eps=1e-8)
    assert fit.status.name == "eps_not_reached"
    assert true_error(hilbert, fit) == pytest.approx(fit.rel_error, rel=0.2)


def test_an_eps_below_rounding():
    fit = tk.decompose(hilbert, "tt", shape=(20,) * 4, eps=0.0)
    assert fit.status.name == "floor"
    assert true_error(hilbert, fit) <= 1e-12


def test_evaluations_are_limited():
    fit = tk.decompose(hilbert, "tt", shape=(30,) * 5, eps=1e-10, method=tk.Cross(max_evaluations=5000))
    assert fit.evaluations <= 5000
    assert fit.status.name == "max_evaluations"
    assert fit.rel_error > 1e-10
    with pytest.raises(tk.OptionError, match="max_evaluations=20"):
        tk.decompose(hilbert, "tt", shape=(30,) * 5, eps=1e-10, method=tk.Cross(max_evaluations=20))


def test_a_time_limit_gives_the_best_so_far():
    def slow(i):
        time.sleep(0.005)
        return hilbert(i)

    fit = tk.decompose(slow, "tt", shape=(40,) * 6, eps=1e-12, time_limit_s=0.5)
    assert fit.status.name == "time_limit"
    assert fit.rel_error <= 1.0


def test_ctrl_c_gives_the_best_so_far():
    calls = []

    def f(i):
        calls.append(len(i))
        if len(calls) > 150:
            raise KeyboardInterrupt
        return hilbert(i)

    fit = tk.decompose(f, "tt", shape=(40,) * 6, eps=1e-12)
    assert fit.status.name == "interrupted"
    assert 1e-12 < fit.rel_error < 1.0


def test_noise_is_never_called_a_success():
    def noise(i):
        return np.sin(1e4 * np.sin(i @ np.array([12.9898, 78.233, 37.719, 11.13])))

    fit = tk.decompose(noise, "tt", shape=(20,) * 4, eps=1e-3, method=tk.Cross(max_evaluations=20_000))
    assert not fit.status.ok
    assert 0.5 <= fit.rel_error <= 1.05
    assert true_error(noise, fit) <= 1.05


def test_where_most_entries_are_needed_all_are_read():
    fit = tk.decompose(
        lambda i: np.exp(-np.abs(i[:, 0] - i[:, 1]) / 10.0), "tt", shape=(60, 60), eps=1e-6, method="cross"
    )
    assert fit.error_kind == "exact"
    assert fit.evaluations == 3600
    assert fit.rel_error <= 1e-6


@dataclass
class Heard:
    errors: list = field(default_factory=list)

    def __call__(self, info):
        self.errors.append(info.error)


def test_progress_hears_errors():
    heard = Heard()
    fit = tk.decompose(hilbert, "tt", shape=(20,) * 4, eps=1e-6, progress=heard)
    assert heard.errors == [step.error for step in fit.history]
    assert min(heard.errors) >= 0


# --- odd functions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(3000,), (60, 50), (1, 40, 1, 50, 1), (40, 1, 30), (2, 2, 600, 2), (9, 9, 9, 9)])
def test_shapes(name, shape):
    fit = tk.decompose(hilbert, name, shape=shape, eps=1e-5)
    assert fit.tensor.shape == shape
    assert true_error(hilbert, fit) <= 1e-5
    assert fit.status.ok


@pytest.mark.parametrize("name", FORMATS)
def test_zero(name):
    fit = tk.decompose(lambda i: np.zeros(len(i)), name, shape=(30,) * 4, eps=1e-6)
    assert fit.rel_error == 0.0
    assert float(fit.tensor.to_dense().abs().max()) == 0.0
    assert fit.evaluations < 10_000


@pytest.mark.parametrize(
    ("f", "rank"),
    [
        (lambda i: np.full(len(i), -3.0), 1),
        (lambda i: np.exp(-i.sum(1) / 5.0), 1),
        (lambda i: i.sum(1), 2),
        (lambda i: (i[:, 0] == 3) * 1.0, 1),
        (lambda i: np.prod(i, axis=1), 1),
    ],
)
def test_small_ranks(f, rank):
    fit = tk.decompose(f, "tt", shape=(25,) * 4, eps=1e-8)
    assert max(fit.ranks) == rank
    assert true_error(f, fit) <= 1e-8


def test_an_array_in_memory():
    x = np.fromfunction(lambda i, j, k: 1.0 / (1 + i + j + k), (25, 24, 23))
    fit = tk.decompose(x, "tt", eps=1e-6, method="cross")
    assert fit.method == "cross"
    assert tk.error(x, fit.tensor) <= 1e-6


def test_small_arrays_are_read_whole():
    fit = tk.decompose(hilbert, "tt", shape=(8, 8, 8), eps=1e-6)
    assert fit.evaluations == 512
    assert fit.error_kind == "exact"


def test_formats_and_options_that_are_not_possible():
    with pytest.raises(tk.OptionError, match="cross"):
        tk.decompose(hilbert, "cp", shape=(30, 30, 30), rank=2)
    with pytest.raises(tk.OptionError, match="samples=3"):
        tk.Cross(samples=3)
    with pytest.raises(tk.OptionError, match="max_evaluations"):
        tk.Cross(max_evaluations=True)


# --- the parts --------------------------------------------------------------------------------------------------------


SHAPES = ((5, 6, 7), (9, 10, 8, 3, 9), (2, 3, 2, 4), (12, 11))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["tt", "ht", "tucker"])
def test_an_interpolation_is_exact_at_its_pivots(name, shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape)
    layout = as_spec(name).layout(shape)
    tree = pivot_tree(layout)

    def f(points):
        return x[tuple(points.T)]

    pivots = first_pivot(tree, f, np.array([n // 2 for n in shape]))
    for _ in range(2):
        point = np.array([rng.integers(n) for n in shape])
        for edge in range(len(tree.edges)):
            if len(pivots.points[edge]) < tree.caps[edge] and local_residual(pivots, f, edge, point) > 1e-6:
                pivots = add_pivot(pivots, f, edge, point)
    for edge, (node, _) in enumerate(tree.edges):
        matrix = interpolation(pivots, node, edge)
        for k, place in enumerate(pivots.places[node, edge]):
            if place is not None:
                own = [n for a, n in enumerate(pivots.nodes[node].shape) if a != tree.edges_of[node].index(edge)]
                row = np.ravel_multi_index(place, own) if own else 0
                assert np.allclose(matrix[row], np.eye(matrix.shape[1])[k], atol=1e-8)
    tensors = node_tensors(pivots)
    t = TreeTensor(tree, tensors)
    dense = layout.build([torch.from_numpy(a.copy()) for a in format_tensors(tree, tensors, layout)]).to_dense()
    grid = np.indices(shape).reshape(len(shape), -1).T
    assert np.allclose(t.at(grid), dense.numpy().reshape(-1))
    assert t.norm2 == pytest.approx(float(dense.square().sum()))


def test_points_are_drawn_by_the_squares():
    shape = (4, 9, 3, 10)
    _, f = planted(shape, 3, 5)
    tree = comb(shape)
    pivots = first_pivot(tree, f, np.zeros(4, dtype=np.int64))
    t = TreeTensor(tree, node_tensors(pivots))
    drawn = t.draw(40_000, np.random.default_rng(0))
    grid = np.indices(shape).reshape(4, -1).T
    want = np.square(t.at(grid)) / t.norm2
    seen = np.bincount(np.ravel_multi_index(tuple(drawn.T), shape), minlength=len(grid)) / len(drawn)
    spread = np.sqrt(want * (1 - want) / len(drawn))
    assert np.all(np.abs(seen - want) <= 5 * spread + 3 / len(drawn))


def test_the_sample_gives_the_error():
    shape = (9, 10, 11)
    f = hilbert
    tree = comb(shape)
    t = TreeTensor(tree, node_tensors(first_pivot(tree, f, np.zeros(3, dtype=np.int64))))
    grid = np.indices(shape).reshape(3, -1).T
    true = np.linalg.norm(f(grid) - t.at(grid)) / np.linalg.norm(f(grid))
    rng = np.random.default_rng(1)
    uniform = uniform_points(4000, shape, rng)
    for sample in (draw_sample(t, f, 6000, rng), uniform_sample(uniform, f(uniform), shape)):
        found = sample.estimate(t)
        assert found.mean == pytest.approx(true, rel=0.1)
        assert found.error >= found.mean


def test_climbs_meet_at_the_peak():
    def size(points):
        return np.exp(-np.square(points - np.array([7, 30, 2])).sum(1) / 50.0)

    rng = np.random.default_rng(0)
    starts = np.stack([rng.integers(n, size=10) for n in (12, 50, 5)], axis=1)
    ends, sizes = climb(size, starts, (12, 50, 5), rng)
    assert ends.tolist() == [[7, 30, 2]] * 10
    assert np.allclose(sizes, 1.0)
    assert unseen(ends) == 0.0
    assert unseen(starts) > 0.5
