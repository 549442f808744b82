"""Gross outliers: one entry in ten is ten standard deviations off, and the answer is about what it would be without."""

import numpy as np
import pytest
import torch

from tnkit.completion import CompletionALS, RobustALS, complete
from tnkit.completion.robust import robust_scale, tukey_weights
from tnkit.errors import OptionError
from tnkit.formats import random_format
from tnkit.rng import generator


def spoilt(
    spec: str, shape: tuple[int, ...], rank: int, share: float, noise: float, size: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The truth, the noisy entries, the same with outliers of ± size σ in a tenth, and the mask."""
    gen = generator(seed)
    x = random_format(spec, shape, rank, rng=gen, dtype=torch.float64).to_dense()
    sigma = x.square().mean().sqrt()
    noisy = x + noise * sigma * torch.randn(shape, generator=gen, dtype=x.dtype)
    sign = torch.where(torch.rand(shape, generator=gen) < 0.5, -1.0, 1.0).to(x.dtype)
    hit = torch.rand(shape, generator=gen) < 0.1
    return x, noisy, torch.where(hit, noisy + size * sigma * sign, noisy), torch.rand(shape, generator=gen) < share


CASES = [
    ("tt", (12, 12, 12), 2, 0.4, 10.0, "given"),
    ("tt", (12, 12, 12), 2, 0.4, 0.1, "given"),
    ("tt", (12, 12, 12), 2, 0.4, 10.0, "auto"),
    ("tucker", (16, 16, 16), 2, 0.3, 10.0, "given"),
    ("cp", (20, 20, 20), 2, 0.2, 10.0, "given"),
    ("tr", (10, 10, 10), 2, 0.4, 10.0, "given"),
]


@pytest.mark.parametrize(("spec", "shape", "true_rank", "share", "size", "rank"), CASES)
def test_outliers_cost_less_than_twice_the_error(
    spec: str, shape: tuple[int, ...], true_rank: int, share: float, size: float, rank: str
) -> None:
    x, noisy, bad, mask = spoilt(spec, shape, true_rank, share, 0.01, size, seed=0)

    def error(y: torch.Tensor, method: str) -> float:
        done = complete(y, spec, mask=mask, rank=true_rank if rank == "given" else "auto", method=method)
        assert done.tensor is not None
        return float((done.tensor.to_dense() - x).norm() / x.norm())

    clean = error(noisy, "als")
    assert error(bad, "robust") <= 2 * clean
    if size > 1 and rank == "given" and spec == "tt":
        assert error(bad, "als") > 10 * clean
        assert error(noisy, "robust") <= 1.2 * clean


def test_the_scale_is_that_of_the_bulk() -> None:
    r = torch.randn(10_000, dtype=torch.float64, generator=generator(0)).abs()
    r[:3000] = 1e6
    assert 1 < robust_scale(r) < 2
    w = tukey_weights(r, 4.685)
    assert bool((w[:3000] == 0).all())
    assert float(w[3000:].mean()) > 0.8
    assert tukey_weights(torch.zeros(4), 4.0).tolist() == [1.0] * 4


def test_small_things() -> None:
    x = np.add.outer(np.arange(6.0), np.arange(5.0))
    x[1, 2] = np.nan
    assert np.isfinite(complete(x, "tt", rank=2, method="robust").filled).all()
    assert np.isfinite(complete(np.zeros((4, 5)), "tt", rank=2, method="robust").filled).all()
    quick = RobustALS(inner=CompletionALS(max_steps=5, starts=1), rounds=1)
    assert complete(x * (1 + 1j), "tt", rank=2, method=quick).filled.dtype == np.complex128
    assert complete(x, "tt", rank=1, method="robust", time_limit_s=1e-3).status.name == "time_limit"
    with pytest.raises(OptionError, match="cutoff must be above 1"):
        RobustALS(cutoff=0.5)


def test_a_picture_is_answered_no_worse_than_by_least_squares_and_said_to_be_unclear() -> None:
    i, j = np.mgrid[:30, :24]
    x = np.sign(np.sin(i * 0.9 + j * 0.4)) + np.sign(np.cos(j * j / 40.0 - i / 7)) + 0.1 * np.sin(i * j / 50)
    mask = np.random.default_rng(0).random(x.shape) < 0.5

    def error(method: str) -> float:
        return float(np.linalg.norm((complete(x, "tt", mask=mask, method=method).filled - x)[~mask]))

    assert error("robust") <= 1.1 * error("als")
    done = complete(x, "tt", mask=mask, method="robust")
    assert done.status.name == "not_told_apart"
    assert "robust_tubal" in done.status.message
