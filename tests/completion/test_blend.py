"""Blends against a solver of the same problem, and the choice that is made of them."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from benchmarks.completion_data import entries, pixels
from tnkit.completion import TCTV, Biharmonic, Observations, complete
from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem
from tnkit.completion.blend import blended, simplex_weights
from tnkit.completion.dense_choice import could_be_an_image
from tnkit.completion.mixture import blend_of
from tnkit.completion.similarity import smoothness
from tnkit.rng import generator
from tnkit.solvers import CONVERGED, Control


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


@dataclass(frozen=True)
class Drawn(CompletionMethod):
    """Fills with a number that it draws, and settles for that number."""

    number: float | None = None
    name = "drawn"
    formats = False

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """A constant."""
        drawn = float(torch.rand((), generator=problem.rng)) if self.number is None else self.number
        dense = problem.observations.values.new_full(problem.observations.shape, drawn)
        return CompletionFit(None, dense, None, 0.0, CONVERGED, settled=Drawn(drawn))


@pytest.mark.parametrize(("shape", "choices"), [((30, 20), 3), ((100, 60), 1)])
def test_of_few_entries_every_part_chooses(shape: tuple[int, int], choices: int) -> None:
    seen = torch.rand(shape, generator=generator(0)) < 0.8
    obs = Observations.from_dense(torch.randn(shape, dtype=torch.float64, generator=generator(1)), seen)
    found = blend_of(CompletionProblem(obs, None, None, generator(0), Control()), [Drawn()], 0.1, 7)
    drawn = [float(torch.rand((), generator=generator(7 + k))) for k in range(choices)]
    assert found is not None
    assert found.weights == (1.0,)
    assert found.fit.dense is not None
    assert torch.allclose(found.fit.dense, torch.tensor(np.mean(drawn)))


def test_levels_of_rows_and_columns_are_no_order() -> None:
    found: dict[str, list[bool]] = {"levels": [], "smooth": []}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        noise, mask = 0.5 * rng.normal(size=(80, 60)), torch.from_numpy(rng.random((80, 60)) < 0.5)
        kinds = {
            "levels": np.add.outer(rng.normal(size=80), rng.normal(size=60)),
            "smooth": np.add.outer(np.sin(np.arange(80) / 9), np.cos(np.arange(60) / 7)),
        }
        for kind, x in kinds.items():
            obs = Observations.from_dense(torch.from_numpy(x + noise), mask)
            assert all(smoothness(obs, mode) < 0.9 for mode in (0, 1))
            found[kind].append(could_be_an_image(obs))
    assert all(found["smooth"])
    assert sum(found["levels"]) <= 2
