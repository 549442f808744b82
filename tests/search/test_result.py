"""What a search gives: the reason, drawings, pictures, and what "auto" makes of it."""

from pathlib import Path

import pytest
import torch

import tnkit as tk
import tnkit.interop.matplotlib as pictures
from tests.search.planted import dense, random_tree
from tnkit.network import Topology, drawn
from tnkit.registry import PROVIDERS
from tnkit.search.graph import chain, ring


def test_the_reason_tells_what_was_beaten_and_what_is_left() -> None:
    x = dense(random_tree(5, 5, 3), noise=0.05)
    found = tk.search(x, eps=0.06, strategy="trees")
    why = found.why
    assert f"{found.best.fit.n_params:,} numbers" in why
    assert found.best.label in why
    assert "any tree needs" in why
    told = tk.explain(found)
    assert told.why == why
    assert told.max_params == found.best.fit.n_params
    assert {label for label, _ in told.alternatives} == {c.label for c in found.front} - {found.best.label}
    assert found.best.label in repr(told)


def test_a_proved_optimum_says_so() -> None:
    graph = random_tree(5, 5, 0)
    assert "none is smaller" in tk.search(dense(graph), eps=1e-6, strategy="trees").why


def test_the_reason_of_a_size_is_an_error() -> None:
    found = tk.search(dense(chain((5, 5, 5), (3, 3)), noise=0.1), budget=60)
    assert "with error" in found.why


@pytest.mark.parametrize("strategy", ["portfolio", "trees", "greedy"])
def test_every_candidate_can_be_drawn(strategy: str, tmp_path: Path) -> None:
    x = dense(ring((4, 5, 4, 3), (2, 2, 2, 2)))
    found = tk.search(x, eps=1e-3, strategy=strategy)
    for candidate in found.tried:
        text = candidate.drawing()
        assert text.strip()
    figure = found.plot()
    figure.savefig(tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 1000
    assert len(figure.axes[0].collections) >= 2
    found.best.plot().savefig(tmp_path / "network.svg")
    assert "<svg" in (tmp_path / "network.svg").read_text()


def test_a_drawing_names_every_mode_and_bond_once() -> None:
    topology = Topology.parse("pia,ajb,bkp,kl->ijl")
    text = drawn(topology, {"i": 4, "j": 5, "k": 6, "l": 7, "a": 12, "b": 13, "p": 14})
    tree = text.partition("loops:")[0]
    for mode in ("i:4", "j:5", "l:7"):
        assert tree.count(mode) == 1
    for rank in ("─12─", "─13─", "─14─"):
        assert text.count(rank) == 1
    assert drawn(Topology.parse("ir,jr,kr->ijk"), {"i": 2, "j": 3, "k": 4, "r": 5}).count("─5─") == 3


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tk.search(dense(chain((5, 5, 5), (2, 2))), eps=1e-3, strategy="trees")
    assert pictures.plot_front(found).axes
    monkeypatch.setattr(PROVIDERS, "_entries", {})
    with pytest.raises(tk.MissingExtraError, match=r"tnkit\[plot\].*tnkit.interop.matplotlib"):
        found.plot()


def test_auto_takes_a_tree_in_another_order_where_that_is_smaller() -> None:
    gen = torch.Generator().manual_seed(0)
    a, b = (torch.randn(8, 8, generator=gen, dtype=torch.float64) for _ in range(2))
    x = torch.einsum("ik,jl->ijkl", a, b)
    fit = tk.decompose(x, "auto", eps=1e-6)
    assert fit.n_params == 128
    assert fit.rel_error <= 1e-6
    assert "tree" in fit.why
