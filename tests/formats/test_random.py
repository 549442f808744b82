"""Random formats have the variance that was asked for."""

import pytest
import torch

import tnkit as tk
from tnkit.registry import FORMATS
from tnkit.rng import generator

SPECS = (
    *FORMATS.names(),
    tk.HTSpec("linear"),
    tk.TTMatrixSpec(order="split"),
    tk.BTDSpec(terms=3),
    tk.BLASTSpec(blocks=(2, 3)),
    "ir,jr,kr->ijk",
    "iabc,ajd,bdk,c->ijk",
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_variance(spec, dtype):
    """E|x|² over 300 draws; its own relative deviation is estimated from them, and 5 of those are allowed."""
    gen = generator(0)
    variance, draws = 3.0, 300
    means = torch.stack(
        [
            tk.random_format(spec, (3, 4, 5), rank=2, variance=variance, dtype=dtype, rng=gen)
            .to_dense()
            .abs()
            .square()
            .mean()
            for _ in range(draws)
        ]
    )
    spread = float(means.std()) / draws**0.5
    assert abs(float(means.mean()) - variance) < 5 * spread
    assert spread < 0.35 * variance


@pytest.mark.parametrize("spec", ["tt", "tubal", "blast"])
def test_mean_is_zero(spec):
    gen = generator(1)
    draws = torch.stack([tk.random_format(spec, (3, 4, 5), rank=2, rng=gen).to_dense().mean() for _ in range(200)])
    assert abs(float(draws.mean())) < 5 * float(draws.std()) / 200**0.5


def test_seeds():
    a, b, c = (tk.random_format("tt", (4, 5), rank=2, rng=seed) for seed in (7, 7, 8))
    assert torch.equal(a.to_dense(), b.to_dense())
    assert not torch.equal(a.to_dense(), c.to_dense())
    d, e = (tk.random_format("tt", (4, 5), rank=2) for _ in range(2))
    assert not torch.equal(d.to_dense(), e.to_dense())


def test_global_generators_are_not_touched():
    before = torch.get_rng_state()
    tk.random_format("tucker", (4, 5), rank=2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("variance", [0, -1.0, float("nan")])
def test_a_variance_that_is_none(variance):
    with pytest.raises(tk.OptionError, match=r"must be above 0"):
        tk.random_format("tt", (4, 5), rank=2, variance=variance)
