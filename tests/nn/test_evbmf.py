"""EVBMF: planted ranks are found, noise is rank 0 and has a fallback, and the rules carry through compress."""

import pytest
import torch
from torch import nn

import tnkit as tk
from tnkit.errors import ShapeError
from tnkit.nn import ChannelSVD, LowRankLayer, Tucker2
from tnkit.nn.evbmf import evbmf_rank, evbmf_rules


def planted(m: int, n: int, rank: int, noise: float, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    signal = torch.randn(m, rank, generator=random) @ torch.randn(rank, n, generator=random)
    return signal + noise * torch.randn(m, n, generator=random)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("m", "n", "rank"), [(100, 100, 7), (60, 200, 12), (200, 60, 12), (40, 30, 1)])
def test_planted_ranks_are_found(m: int, n: int, rank: int, seed: int) -> None:
    for noise in (0.1, 0.7):
        assert evbmf_rank(planted(m, n, rank, noise, seed)) == rank


def test_scale_and_transpose_do_not_matter() -> None:
    x = planted(80, 50, 6, 1.0)
    assert evbmf_rank(x) == evbmf_rank(x.mT) == evbmf_rank(1e-6 * x) == evbmf_rank(1e6 * x)


def test_noise_has_no_rank_and_nothing_has_none() -> None:
    assert (
        evbmf_rank(planted(100, 80, 3, 0.0) * 0 + torch.randn(100, 80, generator=torch.Generator().manual_seed(0))) == 0
    )
    assert evbmf_rank(torch.zeros(4, 5)) == 0
    assert evbmf_rank(torch.ones(1, 5)) == 1
    with pytest.raises(ShapeError):
        evbmf_rank(torch.ones(3))


def test_rules_for_a_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(128, 64), nn.Linear(64, 64), nn.Linear(64, 8))
    with torch.no_grad():
        model[2].weight.copy_(planted(64, 128, 5, 0.3))
        kernel = torch.einsum("oa,aikl,ic->ockl", torch.randn(32, 4), torch.randn(4, 3, 3, 3), torch.randn(3, 32))
        model[0].weight.copy_(kernel + 0.2 * torch.randn_like(kernel))
    rules = evbmf_rules(model, {"4": None, "3": LowRankLayer(keep=0.5)})
    assert rules["2"] == LowRankLayer(rank=5)
    assert rules["0"] == Tucker2(rank=(4, 3))
    assert rules["4"] is None
    assert isinstance(rules["3"], LowRankLayer)
    assert rules["3"].keep == 0.5
    small, report = tk.nn.compress(model, None, rules=rules)
    assert report.params_after < report.params_before
    assert small(torch.randn(2, 32, 4, 4)).shape == (2, 8)


def test_pure_noise_falls_back_to_a_rank() -> None:
    torch.manual_seed(0)
    rules = evbmf_rules(nn.Sequential(nn.Linear(64, 64), nn.Conv2d(4, 64, 3)))
    assert rules["0"].asked_rank[0] >= 1
    assert isinstance(rules["1"], Tucker2 | ChannelSVD)
    tk.nn.compress(nn.Sequential(nn.Linear(64, 64)), None, rules={"0": rules["0"]})


def test_a_hadamard_product_of_two_low_ranks() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 32), torch.randn(5, 24)
    made = tk.nn.compress_layer(layer, tk.nn.NetworkLayer("or,ri,os,si->oi", rank=3)).module
    a, b, c, d = made.factors().values()
    assert torch.allclose((a @ b) * (c @ d), made.weight, atol=1e-6)
    assert made.n_factor_params() == 2 * 3 * (24 + 32)
    for execution in ("factored", "materialized"):
        made.execution = execution
        assert torch.allclose(made(x), nn.functional.linear(x, made.weight, made.bias), atol=1e-3)
    assert int(torch.linalg.matrix_rank(made.weight)) > 6  # a rank that two factors of this size do not have
