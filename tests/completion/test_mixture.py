"""The separable Gaussian, blends of methods, and the automatic choice for tables, panels and series."""

import numpy as np
import pytest
import torch

from tnkit.completion import Blend, HaLRTC, Observations, SeparableGaussian, TruncatedNuclear, complete
from tnkit.completion.base import CompletionProblem
from tnkit.completion.mixture import blend_of, usual_members
from tnkit.completion.separable import Separable
from tnkit.completion.similarity import uneven
from tnkit.errors import DTypeError, OptionError
from tnkit.rng import generator
from tnkit.solvers import Control, StepInfo

RNG = np.random.default_rng(0)


def correlated(shape: tuple[int, ...], seed: int, reach: float = 6.0, noise: float = 0.2) -> np.ndarray:
    """A draw of a Gaussian array whose neighbours along each mode are alike, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    for k, n in enumerate(shape):
        at = np.arange(n)
        root = np.linalg.cholesky(np.exp(-np.abs(at[:, None] - at) / reach) + 1e-9 * np.eye(n))
        x = np.moveaxis(np.tensordot(root, x, (1, k)), 0, k)
    return x + noise * rng.normal(size=shape)


def off(filled: np.ndarray, x: np.ndarray, seen: np.ndarray) -> float:
    return float(np.linalg.norm((filled - x)[~seen]) / np.linalg.norm(x[~seen]))


def kriging(x: np.ndarray, seen: np.ndarray, reach: float, noise: float) -> np.ndarray:
    """The conditional mean with the covariance that made the data: no method can be nearer in the mean."""
    covariance = np.ones((1, 1))
    for n in x.shape:
        at = np.arange(n)
        covariance = np.kron(covariance, np.exp(-np.abs(at[:, None] - at) / reach))
    flat, known = x.reshape(-1), seen.reshape(-1)
    inner = covariance[np.ix_(known, known)] + noise**2 * np.eye(int(known.sum()))
    return (covariance[:, known] @ np.linalg.solve(inner, flat[known])).reshape(x.shape)


def test_it_is_near_the_conditional_mean_of_the_true_covariance() -> None:
    ratios = []
    for seed in range(4):
        x, seen = correlated((24, 20), seed), np.random.default_rng(seed).random((24, 20)) < 0.5
        best = off(kriging(x, seen, 6.0, 0.2), x, seen)
        ratios.append(off(complete(x, mask=seen, method="gaussian").filled, x, seen) / best)
    assert np.mean(ratios) < 1.25


def test_deviations_cover_what_is_missing() -> None:
    covered = []
    for seed in range(4):
        x, seen = correlated((20, 12, 6), seed), np.random.default_rng(seed).random((20, 12, 6)) < 0.6
        done = complete(x, mask=seen, method="gaussian")
        at = np.argwhere(~seen)
        spread = np.sqrt(np.asarray(done.std(at)) ** 2 + 0.2**2)
        covered.append(np.mean(np.abs(np.asarray(done.predict(at)) - x[~seen]) < 1.645 * spread))
    assert 0.8 < np.mean(covered) < 0.97


def test_columns_of_any_units() -> None:
    z = RNG.normal(size=(120, 3)) @ RNG.normal(size=(3, 8)) + 0.3 * RNG.normal(size=(120, 8)) + 5
    units = 10.0 ** np.arange(-4, 4)
    seen = RNG.random(z.shape) < 0.7
    plain = np.asarray(complete(z, mask=seen, method="gaussian").filled)
    other = np.asarray(complete(z * units, mask=seen, method="gaussian").filled) / units
    means = np.where(seen, z, np.nan)
    means = np.broadcast_to(np.nanmean(means, 0), z.shape)
    assert off(other, z, seen) < 1.3 * off(plain, z, seen)
    assert off(other, z, seen) < 0.7 * off(means, z, seen)
    assert uneven(Observations.from_dense(z * units, seen)) == 1
    assert uneven(Observations.from_dense((z - z.mean(0)) * units, seen)) == 1
    assert uneven(Observations.from_dense(RNG.normal(size=(40, 30)))) is None


def test_constant_arrays_steps_without_holdout_and_refusals() -> None:
    seen = RNG.random((9, 8)) < 0.5
    assert np.all(np.asarray(complete(np.full((9, 8), 3.0), mask=seen, method="gaussian").filled) == 3.0)
    x = np.add.outer(np.arange(9.0), np.arange(8.0))
    assert off(complete(x, mask=seen, method=SeparableGaussian(holdout=0.0, max_steps=8)).filled, x, seen) < 0.2
    with pytest.raises(OptionError, match="pull must be above 0"):
        SeparableGaussian(pull=0.0)
    with pytest.raises(DTypeError, match="real arrays"):
        complete(np.where(seen, x * 1j, np.nan), method="gaussian")
    with pytest.raises(OptionError, match="without a format"):
        Blend((SeparableGaussian(), TruncatedNuclear()), holdout=0.0)


def test_a_blend_is_not_worse_than_its_members_where_they_are_compared() -> None:
    x, seen = correlated((20, 12, 6), 7), np.random.default_rng(7).random((20, 12, 6)) < 0.5
    members = (SeparableGaussian(), HaLRTC(holdout=0.0), TruncatedNuclear(thetas=(0.0, 0.1)))
    done = complete(x, mask=seen, method=Blend(members))
    assert done.heldout_error is not None
    again = {m.name: off(complete(x, mask=seen, method=m).filled, x, seen) for m in members}
    assert off(done.filled, x, seen) < 1.03 * min(again.values())


@pytest.mark.parametrize("shape", [(80,), (40, 9), (12, 10, 6)])
def test_automatic_choice_for_series_tables_and_panels(shape: tuple[int, ...]) -> None:
    x, seen = correlated(shape, 3), np.random.default_rng(3).random(shape) < 0.6
    done = complete(x, mask=seen)
    assert done.method in ("gaussian", "blend")
    assert np.array_equal(np.asarray(done.filled)[seen], x[seen])
    assert off(done.filled, x, seen) < 0.9 * off(np.full(shape, x[seen].mean()), x, seen)


def test_time_and_interrupts() -> None:
    x, seen = correlated((20, 12, 6), 5), np.random.default_rng(5).random((20, 12, 6)) < 0.6
    short = complete(x, mask=seen, time_limit_s=0.05)
    assert short.status.name == "time_limit"
    assert np.isfinite(np.asarray(short.filled)).all()

    def press(info: StepInfo) -> None:
        if info.step == 2:
            raise KeyboardInterrupt

    for method in ("gaussian", "blend"):
        done = complete(x, mask=seen, method=method, progress=press)
        assert done.status.name == "interrupted"
        assert off(done.filled, x, seen) < 1.0


def test_weights_of_members_that_are_left_out_are_zero() -> None:
    x, seen = correlated((20, 12, 6), 5), np.random.default_rng(5).random((20, 12, 6)) < 0.6
    obs = Observations.from_dense(x, seen)
    found = blend_of(CompletionProblem(obs, None, None, generator(0), Control()), usual_members(3), 0.1, 0)
    assert found is not None
    assert sum(found.weights) == pytest.approx(1.0)
    assert len(found.weights) == len(found.errors) == 3
    assert (found.fit.heldout_error or 0.0) <= min(found.errors) * (1 + 1e-9)


def test_a_draw_is_from_the_posterior() -> None:
    """The mean and spread of draws are those of the conditional distribution."""
    x = torch.from_numpy(correlated((8, 6), 2))
    seen = torch.rand(8, 6, generator=torch.Generator().manual_seed(2)) < 0.6
    model = Separable(torch.where(seen, x, 0.0), seen, pull=1.0, own=None, rng=torch.Generator().manual_seed(0))
    state = model.step(model.start(), 1)[0]
    one, two = state.covariances
    assert one is not None
    assert two is not None
    k = state.variance * torch.kron(one, two)
    known = seen.reshape(-1)
    inner = k[known][:, known] + state.noise * torch.eye(int(known.sum()), dtype=k.dtype)
    mean = k[:, known] @ torch.linalg.solve(inner, model.whitened(state.mean).reshape(-1)[known])
    assert torch.allclose(model.dense(state), state.mean + model.scale * mean.reshape(8, 6), atol=1e-3)
    spread = (k - k[:, known] @ torch.linalg.solve(inner, k[known])).diagonal().clamp_min(0).sqrt().reshape(8, 6)
    draws = 4000  # a deviation from n draws has a relative error of 1 / √(2 n); five of them for 48 entries
    assert torch.allclose(model.std(state, draws), model.scale * spread, rtol=5 * (2 * draws) ** -0.5, atol=1e-3)
