"""Searches from the front door: planted structures, limits, memory, files, interruption."""

from pathlib import Path

import numpy as np
import pytest
import torch

import tnkit as tk
from tnkit.search import STRATEGIES, Graph, GreedyTN, Limits, TnALE, run_search
from tnkit.search.graph import chain, ring, star
from tnkit.search.proposer import Proposal, Proposer, Setting
from tnkit.solvers import Control


def planted(graph: Graph, seed: int = 0) -> torch.Tensor:
    gen = torch.Generator().manual_seed(seed)
    layout = graph.layout()
    shapes = layout.shapes(graph.bond_ranks())
    return layout.build([torch.randn(s, generator=gen, dtype=torch.float64) for s in shapes]).to_dense()


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_every_strategy_keeps_its_word(name: str) -> None:
    x = planted(chain((5, 6, 5, 4), (2, 3, 2)))
    found = tk.search(x, eps=0.3, strategy=name, max_evaluations=25)
    for point in found.front:
        assert point.fit.rel_error == pytest.approx(tk.error(x, point.fit.tensor), rel=1e-6, abs=1e-12)
        assert point.fit.tensor.shape == x.shape
    sizes, errors = [c.fit.n_params for c in found.front], [c.fit.rel_error for c in found.front]
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert 0 < found.evaluations <= 25
    assert found.best.fit.status.ok == (found.best.fit.rel_error <= 0.3 * (1 + 1e-9))
    assert str(found.best.fit.n_params) in repr(found).replace(",", "")


@pytest.mark.parametrize("d", [5, 6])
@pytest.mark.parametrize("seed", range(3))
def test_planted_trees_in_any_order_are_found_and_proved(d: int, seed: int) -> None:
    gen = torch.Generator().manual_seed(seed)
    order = torch.randperm(d, generator=gen).tolist()
    graph = chain((4,) * d, torch.randint(2, 4, (d - 1,), generator=gen).tolist(), order=order)
    found = tk.search(planted(graph, seed), eps=1e-6, strategy="trees")
    assert found.best.fit.n_params <= graph.n_params
    assert dict(found.bounds)["any tree"] <= found.best.fit.n_params
    assert found.best.fit.rel_error <= 1e-6


def test_a_tucker_core_is_a_tree() -> None:
    graph = star((7,) * 4, (2, 3, 3, 2))
    found = tk.search(planted(graph), eps=1e-6, strategy="trees")
    assert found.best.fit.n_params == graph.n_params
    assert dict(found.bounds)["any tree"] == graph.n_params


@pytest.mark.parametrize("strategy", ["tnale", "tnls", "several"])
def test_a_planted_ring_of_shuffled_modes_is_found(strategy: str) -> None:
    graph = ring((6,) * 4, (2, 3, 2, 2), order=(0, 2, 1, 3))
    found = tk.search(planted(graph), eps=1e-3, strategy=strategy, rng=0)
    assert found.best.fit.n_params <= graph.n_params
    assert found.best.fit.rel_error <= 1e-3


def test_a_size_is_kept_and_the_error_falls_with_it() -> None:
    x = torch.rand((6, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = []
    for budget in (30, 60, 100):
        found = tk.search(x, budget=budget, strategy="greedy")
        assert found.best.fit.n_params <= budget
        errors.append(found.best.fit.rel_error)
    assert errors == sorted(errors, reverse=True)


def test_a_reshaped_half_precision_array_comes_back_as_it_was() -> None:
    x = planted(chain((4, 4, 4, 4), (2, 2, 2))).reshape(16, 16).to(torch.float16)
    found = tk.search(x, eps=0.05, strategy="trees", shape=(4, 4, 4, 4))
    assert found.best.fit.tensor.shape == (16, 16)
    assert found.best.fit.tensor.dtype == torch.float16
    assert found.best.fit.rel_error <= 0.05


def test_scale_and_modes_of_size_one_do_not_matter() -> None:
    x = planted(chain((4, 5, 6), (2, 2))).reshape(4, 1, 5, 6)
    for scale in (1e-150, 1.0, 1e150):
        found = tk.search((x * scale).numpy(), eps=1e-6, strategy="trees")
        assert found.best.fit.n_params == 40
        assert found.best.fit.rel_error <= 1e-6


def test_a_search_goes_on_from_its_file(tmp_path: Path) -> None:
    x, path = planted(ring((5,) * 4, (2, 2, 2, 2))), tmp_path / "search.safetensors"
    paper = GreedyTN(prune=False)
    first = tk.search(x, eps=1e-3, strategy=paper, max_evaluations=6, save=path)
    assert first.status.name == "max_steps"
    assert first.evaluations == 6
    second = tk.search(x, eps=1e-3, strategy=paper, save=path)
    whole = tk.search(x, eps=1e-3, strategy=paper)
    assert second.best.fit.rel_error <= 1e-3
    assert second.evaluations < whole.evaluations
    with pytest.raises(tk.FileFormatError, match="shape"):
        tk.search(planted(ring((4,) * 4, (2, 2, 2, 2))), eps=1e-3, strategy=paper, save=path)


class Interrupted(Proposer):
    """Asks twice, and is then interrupted."""

    name = "interrupted"

    def propose(self, setting: Setting):  # type: ignore[no-untyped-def]
        for rank in (1, 2):
            yield [Proposal(chain(setting.shape, (rank,) * (len(setting.shape) - 1)))]
        raise KeyboardInterrupt


def test_an_interruption_loses_nothing(tmp_path: Path) -> None:
    x, path = planted(chain((5, 5, 5), (2, 2))), tmp_path / "s.safetensors"
    gen = torch.Generator().manual_seed(0)
    found = run_search(x, float(x.norm()), Interrupted(), Limits(eps=1e-6), rng=gen, control=Control(), save=path)
    assert found.status.name == "interrupted"
    assert found.evaluations == 2
    assert path.exists()
    again = tk.search(x, eps=1e-6, strategy="greedy", save=path)
    assert again.best.fit.n_params <= 40


def test_a_known_graph_is_not_fitted_again_and_bounds_save_fits() -> None:
    x = planted(ring((6,) * 4, (2, 3, 2, 2)))
    found = tk.search(x, eps=1e-3, strategy=TnALE(sweeps=2))
    assert found.pruned > 0
    assert found.evaluations < 40


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"strategy": "gredy", "eps": 0.1}, tk.OptionError, "greedy"),
        ({"strategy": "greedy"}, tk.OptionError, "eps="),
        ({"strategy": "greedy", "budget": 3}, tk.BudgetError, "12"),
        ({"strategy": "loops", "budget": 40}, tk.OptionError, "give eps="),
        ({"strategy": "matched", "budget": 40}, tk.OptionError, "give eps="),
        ({"strategy": "greedy", "eps": 0.1, "shape": (5, 5)}, tk.ShapeError, "25"),
        ({"eps": 0.1, "max_evaluations": 3, "strategy": "portfolio"}, tk.OptionError, "portfolio"),
        ({"strategy": TnALE(template="star"), "eps": 0.1}, tk.OptionError, "ring"),
        ({"strategy": GreedyTN, "eps": 0.1}, tk.OptionError, "strategy="),
        ({"strategy": "greedy", "eps": 0.1, "max_evaluations": 0}, tk.OptionError, "1 or more"),
        ({"eps": 0.1, "max_evaluations": 2.5}, tk.OptionError, "1 or more"),
        ({"eps": 0.1, "save": "no such folder/s.safetensors"}, tk.FileFormatError, "Make it first"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, kind: type[Exception], words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(kind, match=words):
        tk.search(np.random.default_rng(0).normal(size=(4, 4, 4)), **options)


@pytest.mark.parametrize("strategy", ["trees", "greedy", "auto", "portfolio"])
def test_where_a_size_cannot_reach_eps_the_closest_is_given_and_says_so(strategy: str) -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 4))
    found = tk.search(x, eps=0.1, budget=30, strategy=strategy)
    assert found.best.fit.n_params <= 30
    assert 0.5 < found.best.fit.rel_error < 1
    assert found.best.fit.status.name == "eps_not_reached"
    assert found.gap is None
    assert "eps was not reached" in found.why or "no bound was proved" in found.why


def test_bounds_of_complex_arrays_count_real_numbers() -> None:
    gen = torch.Generator().manual_seed(0)
    x = torch.einsum(
        "ia,jb,kc,abc->ijk",
        *(torch.randn(6, 2, generator=gen, dtype=torch.complex128) for _ in range(3)),
        torch.randn(2, 2, 2, generator=gen, dtype=torch.complex128),
    )
    found = tk.search(x, eps=1e-6, strategy="trees")
    assert dict(found.bounds)["any tree"] == found.best.fit.n_params == 2 * 44


def test_sparse_arrays_are_refused_with_the_formats_that_take_them() -> None:
    eye = torch.eye(4).reshape(2, 2, 2, 2).to_sparse().coalesce()
    for x in (eye, tk.SparseTensor(eye.indices().T, eye.values(), (2, 2, 2, 2))):
        with pytest.raises(tk.DTypeError, match=r'"tt".*to_dense'):
            tk.search(x, eps=0.1)
        assert tk.explain(x, "cp", rank=2).method == "sparse_cp_als"
        assert tk.explain(x, "tt", eps=0.1).method == "sparse_tt"


def test_a_file_serves_one_array_and_one_question(tmp_path: Path) -> None:
    x, path = planted(ring((5,) * 4, (2, 2, 2, 2))), tmp_path / "search.safetensors"
    tk.search(x, eps=1e-3, strategy="greedy", max_evaluations=4, save=path)
    with pytest.raises(tk.FileFormatError, match="another array"):
        tk.search(x.flip(0), eps=1e-3, strategy="greedy", save=path)
    with pytest.raises(tk.FileFormatError, match=r"eps=0\.01"):
        tk.search(x, eps=1e-2, strategy="greedy", save=path)
