"""What the cuts say of a format's size: never more than a fit needs, and no fit of what cannot be smaller."""

from __future__ import annotations

from math import inf

import pytest
import torch

import tnkit as tk
from tnkit.registry import FORMATS
from tnkit.search import DenseObjective, Portfolio
from tnkit.search.cut_needs import needs
from tnkit.search.format_bounds import least_size
from tnkit.solvers import Control

SHAPE = (5, 6, 4, 5)


def ranks_of_cuts(x: torch.Tensor, eps: float) -> dict[int, int]:
    gen = torch.Generator().manual_seed(0)
    return needs(DenseObjective(x / x.norm(), 1.0, eps=eps, max_params=None, rng=gen, control=Control()))


@pytest.mark.parametrize("name", ["tt", "tr", "tucker", "ht", "cp"])
@pytest.mark.parametrize("rank", [2, 3])
def test_a_format_is_never_smaller_than_its_bound(name: str, rank: int) -> None:
    planted = tk.random_format(name, SHAPE, rank, rng=rank)
    wanted = ranks_of_cuts(planted.to_dense(), 1e-6)
    bounds = {n: least_size(FORMATS.get(n).layout(SHAPE), wanted) for n in ("tt", "tr", "tucker", "ht", "cp")}
    assert bounds[name] <= planted.n_params
    for other in ("tt", "ht"):
        fit = tk.decompose(planted.to_dense(), other, eps=1e-6)
        assert bounds[other] <= fit.n_params
        assert bounds[other] > 0.95 * fit.n_params  # of trains and trees the ranks of the cuts are the ranks


def test_ranks_that_a_format_cannot_have() -> None:
    layout = FORMATS.get("tucker").layout((3, 3, 3))
    assert least_size(layout, {1: 3, 2: 3, 3: 3}) < inf
    assert least_size(layout, {1: 3, 2: 3, 3: 4}) == inf
    assert least_size(FORMATS.get("lowrank").layout((3, 3, 3)), {1: 3, 2: 3, 3: 3}) == 0.0  # it merges modes


def test_what_cannot_be_smaller_is_not_fitted() -> None:
    x = tk.random_format("tucker", (7, 7, 7, 7), (2, 3, 3, 2), rng=0).to_dense()
    found = tk.search(x, eps=1e-4, strategy=Portfolio())
    assert found.best.fit.n_params == tk.decompose(x, "tucker", eps=1e-4).n_params
    told = dict(found.left_out)
    assert "at the ranks that the cuts need" in told["cp"]
    assert "cp" not in [c.label for c in found.tried]
