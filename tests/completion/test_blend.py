"""Blends against a solver of the same problem, and the choice that is made of them."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from benchmarks.completion_data import entries, pixels
from tnkit.completion import TCTV, Biharmonic, complete
from tnkit.completion.blend import blended, simplex_weights
from tnkit.rng import generator


@pytest.mark.parametrize("seed", range(6))
def test_weights_are_the_constrained_least_squares(seed: int) -> None:
    gen = generator(seed)
    truth = torch.randn(200, dtype=torch.float64, generator=gen)
    common = torch.randn(200, dtype=torch.float64, generator=gen)
    noise = [torch.randn(200, dtype=torch.float64, generator=gen) for _ in range(3)]
    guesses = [truth + 0.3 * common + size * e for size, e in zip((0.3, 0.5, 1.0), noise, strict=True)]

    def loss(w: np.ndarray) -> float:
        return float((blended(guesses, w.tolist()) - truth).square().sum())

    mine = np.array(simplex_weights(guesses, truth))
    assert mine.sum() == pytest.approx(1)
    assert (mine >= 0).all()
    sums = {"type": "eq", "fun": lambda w: w.sum() - 1}
    best = minimize(loss, np.full(3, 1 / 3), bounds=[(1e-9, 1)] * 3, constraints=[sums])
    assert loss(mine) <= 1.01 * best.fun
    assert loss(mine) <= min(loss(row) for row in np.eye(3) + 1e-12)


def test_equal_and_perfect_guesses() -> None:
    truth = torch.arange(5.0)
    assert sum(simplex_weights([truth, truth], truth)) == pytest.approx(1)
    assert simplex_weights([truth + 1, truth], truth) == pytest.approx((0, 1))
    assert simplex_weights([truth + 1], truth) == (1.0,)


def picture(n: int, kind: str) -> np.ndarray:
    """Small pictures that favour one method or another."""
    i, j = np.mgrid[:n, :n] / n
    if kind == "smooth":
        flat = np.sin(5 * i + 3 * j * j) + np.cos(4 * j - i)
    elif kind == "edges":
        flat = np.sign(np.sin(12 * i + 5 * j)) + 0.5 * np.sign(np.cos(9 * j - 4 * i * i))
    else:
        flat = np.random.default_rng(3).normal(size=(n // 4, n // 4)).repeat(4, 0).repeat(4, 1)
    return np.stack([flat, 0.7 * flat + i, j - 0.3 * flat], -1)


@pytest.mark.parametrize("kind", ["smooth", "edges", "tiles"])
@pytest.mark.parametrize("pattern", [pixels, entries])
def test_auto_is_no_worse_than_its_members_on_small_pictures(kind: str, pattern: object) -> None:
    x = picture(32, kind)
    mask = pattern(x.shape, 0.25, 1)  # type: ignore[operator]

    def error(method: object) -> float:
        return float(np.linalg.norm((complete(x, mask=mask, method=method).filled - x)[~mask]))  # type: ignore[arg-type]

    assert error("auto") <= 1.05 * min(error(TCTV(holdout=0.0)), error(Biharmonic(holdout=0.0)))
