"""Reshapings: what is tried, one result, files, limits."""

from math import prod
from pathlib import Path

import pytest

import tnkit as tk
from tests.search.planted import dense
from tnkit.search import reshapings
from tnkit.search.graph import chain


@pytest.mark.parametrize("shape", [(145, 145, 200), (1, 16, 9), (7, 11, 13), (64,), (8,) * 6 + (3,), (12,) * 5])
def test_reshapings_hold_the_same_entries(shape: tuple[int, ...]) -> None:
    found = list(reshapings(shape))
    assert found[0] == tuple(n for n in shape if n > 1)
    assert len(set(found)) == len(found)
    for other in found:
        assert prod(other) == prod(shape)
        assert len(other) <= 8
        assert min(other) > 1


def test_a_structure_in_the_factors_of_the_modes_is_found() -> None:
    x = dense(chain((4, 4, 4, 4), (2, 2, 2), order=(0, 2, 1, 3))).reshape(16, 16)
    plain = tk.search(x, eps=1e-5, strategy="trees")
    found = tk.search(x, eps=1e-5, strategy="trees", shape="auto")
    assert found.best.fit.n_params == 48
    assert found.best.fit.n_params < plain.best.fit.n_params
    assert found.best.fit.tensor.shape == (16, 16)
    assert tk.error(x, found.best.fit.tensor) <= 1e-5
    assert "4×4×4×4" in found.best.label
    assert any("over 16×16" in what for what, _ in found.bounds)
    sizes = [c.fit.n_params for c in found.front]
    assert sizes == sorted(sizes)


def test_each_shape_has_its_file_and_goes_on_from_it(tmp_path: Path) -> None:
    x = dense(chain((4, 4, 4, 4), (2, 2, 2))).reshape(16, 16)
    first = tk.search(x, eps=1e-5, strategy="trees", shape="auto", save=tmp_path / "s.safetensors")
    assert {p.name for p in tmp_path.iterdir()} >= {"s.16x16.safetensors", "s.4x4x4x4.safetensors"}
    again = tk.search(x, eps=1e-5, strategy="trees", shape="auto", save=tmp_path / "s.safetensors")
    assert again.evaluations == 0
    assert again.best.fit.n_params == first.best.fit.n_params


def test_limits_hold_over_all_shapes() -> None:
    x = dense(chain((4, 4, 4, 4), (3, 3, 3)), noise=0.1).reshape(16, 16)
    assert tk.search(x, eps=0.11, strategy="greedy", shape="auto", max_evaluations=7).evaluations <= 7
    with pytest.raises(tk.BudgetError, match="No reshaping"):
        tk.search(x, budget=5, strategy="trees", shape="auto")
    with pytest.raises(tk.OptionError, match='"auto"'):
        tk.search(x, eps=0.1, strategy="trees", shape="any")
    with pytest.raises(tk.ShapeError):
        tk.search(x.reshape(-1)[:13], eps=0.1, strategy="trees", shape="auto")
