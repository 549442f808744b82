"""Smooth factors: filter and smoother against dense algebra, recovery, intervals that cover, refusals."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from tnkit.completion import FunBaT, Observations, SmoothFunction, complete, complete_points
from tnkit.completion.state_space import KERNELS, Chain, smooth
from tnkit.errors import DataError, DTypeError, MaskError, OptionError, RankError, ShapeError
from tnkit.solvers import StepInfo


def kernel(chain: Chain, s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Covariances of the values, in closed form."""
    gap = np.abs(s[:, None] - t[None])
    if chain.kernel == "matern12":
        return np.exp(-gap / chain.length)
    if chain.kernel == "matern32":
        return (1 + np.sqrt(3) * gap / chain.length) * np.exp(-np.sqrt(3) * gap / chain.length)
    low, high = np.minimum(s[:, None], t[None]), np.maximum(s[:, None], t[None])
    wiener = 3 / chain.length**3 * (low**2 * high / 2 - low**3 / 6)
    return 1 + s[:, None] * t[None] / chain.length**2 + wiener


@pytest.mark.parametrize("name", KERNELS)
def test_the_smoother_is_gaussian_process_regression(name: str) -> None:
    rng = np.random.default_rng(0)
    chain, at, r = Chain(name, 0.4), np.concatenate([[0.0], np.sort(rng.random(9))]), 2
    root = rng.normal(size=(10, r, r))
    precision, information = root @ root.swapaxes(1, 2), rng.normal(size=(10, r))
    precision[4], information[4] = 0.0, 0.0  # nothing is seen there
    found = smooth(chain, at, precision, information)
    prior = np.kron(kernel(chain, at, at), np.eye(r))
    seen = np.zeros((20, 20))
    for k in range(10):
        seen[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = precision[k]
    cov = np.linalg.inv(np.linalg.inv(prior) + seen)
    np.testing.assert_allclose(found.mean.reshape(-1), cov @ information.reshape(-1), atol=1e-7)
    for k in range(10):
        np.testing.assert_allclose(found.cov[k], cov[2 * k : 2 * k + 2, 2 * k : 2 * k + 2], atol=1e-7)
    evidence = 0.5 * information.reshape(-1) @ cov @ information.reshape(-1)
    evidence -= 0.5 * np.linalg.slogdet(np.eye(20) + seen @ prior)[1]
    assert found.evidence == pytest.approx(evidence, abs=1e-6)


def surface(p: np.ndarray) -> np.ndarray:
    x, y, z = p.T
    return np.sin(2 * np.pi * x * y) + np.exp(-4 * ((z - 0.5) ** 2 + (x - 0.3) ** 2)) + 0.5 * np.cos(3 * z + 2 * y) * x


def on_a_grid(points: np.ndarray, values: np.ndarray, fresh: np.ndarray, cells: int) -> np.ndarray:
    """Tucker of the array of cells."""
    done = complete(
        Observations(np.minimum((points * cells).astype(int), cells - 1), values, (cells,) * 3), "tucker", rank=3
    )
    return np.asarray(done.predict(np.minimum((fresh * cells).astype(int), cells - 1)))


def test_scattered_points_beat_a_grid_and_intervals_cover() -> None:
    rng = np.random.default_rng(0)
    points, fresh = rng.random((450, 3)), rng.random((1000, 3))
    truth, expected = surface(points), surface(fresh)
    noise = 0.1 * truth.std()
    values = truth + noise * rng.normal(size=450)
    found = complete_points(points, values, rank=4, method=FunBaT(max_steps=8))
    error = np.sqrt(np.mean((found.predict(fresh) - expected) ** 2))
    rivals = [np.sqrt(np.mean((on_a_grid(points, values, fresh, n) - expected) ** 2)) for n in (6, 12)]
    assert error < 0.5 * min(rivals)
    assert error < noise
    low, high = found.interval(fresh)
    again = expected + noise * rng.normal(size=1000)
    assert 0.85 < np.mean((low < again) & (again < high)) < 0.95
    assert found.noise_std == pytest.approx(noise, rel=0.2)
    assert (found.std(fresh) > 0).all()
    assert found.std(np.full((1, 3), 3.0))[0] > 3 * found.std(np.full((1, 3), 0.5))[0]  # far from all points
    assert "ranks (4, 4, 4)" in repr(found)


@pytest.mark.parametrize("rank", [1, 2])
def test_deviations_know_of_a_rank_that_is_too_small(rank: int) -> None:
    rng = np.random.default_rng(3)
    points, fresh = rng.random((500, 2)), rng.random((1000, 2))

    def waves(at: np.ndarray) -> np.ndarray:
        return np.sin(5 * at[:, 0] + 4 * at[:, 1]) + np.cos(7 * at[:, 0] * at[:, 1])

    values = waves(points) + 0.1 * rng.normal(size=500)
    found = complete_points(points, values, rank=rank, method=FunBaT(max_steps=8))
    off = found.predict(fresh) - waves(fresh)
    assert np.sqrt(np.mean(off**2)) > 0.15  # the rank is too small
    assert 0.8 < np.mean(np.abs(off) < 1.645 * found.std(fresh)) < 0.99
    low, high = found.interval(fresh)
    again = waves(fresh) + 0.1 * rng.normal(size=1000)
    assert 0.83 < np.mean((low < again) & (again < high)) < 0.97
    form, residuals = start_of_a_line(found, points), values - found.predict(points)
    lack = waves(points) - found.predict(points)
    assert found.noise_std**2 == pytest.approx(residuals @ form @ residuals, rel=1e-6)
    mean = 0.1**2 * np.trace(form) + lack @ form @ lack
    variance = 2 * 0.1**4 * np.trace(form @ form) + 4 * 0.1**2 * lack @ form @ form @ lack
    assert abs(found.noise_std**2 - mean) <= 3 * variance**0.5
    assert mean == pytest.approx(0.1**2, abs=3 * variance**0.5)  # the line itself is not far off, next to that


def start_of_a_line(found: SmoothFunction, points: np.ndarray) -> np.ndarray:
    """The matrix Q of the noise's variance rᵀ Q r as a function of residuals r.

    It is where a line through the means of half squared differences of residuals at k-th nearest neighbours, over
    the mean squared distances, starts. Of normal noise of variance v beside a part g that the model lacks, its mean is
    v tr Q + gᵀ Q g, and its variance 2 v² tr Q² + 4 v gᵀ Q² g.
    """
    lengths = [chain.length for chain in found.posterior.chains]
    scaled = (points - found.low) / found.extent / lengths
    distances, near = (part[:, 1:] for part in cKDTree(scaled).query(scaled, 7))
    shares = np.linalg.pinv(np.stack([np.ones(6), (distances**2).mean(0)], 1))[0]
    form, each = np.zeros((len(points),) * 2), np.arange(len(points))
    for share, other in zip(shares / (2 * len(points)), near.T, strict=True):
        np.add.at(form, (each, each), share)
        np.add.at(form, (other, other), share)
        np.add.at(form, (each, other), -share)
        np.add.at(form, (other, each), -share)
    return form


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_finds_rank_and_function(name: str) -> None:
    rng = np.random.default_rng(1)
    points = rng.random((250, 2)) * [4.0, 100.0] + [1.0, -50.0]
    values = np.sin(points[:, 0]) * np.cos(points[:, 1] / 20) + 3.0
    found = complete_points(points, values + 0.02 * rng.normal(size=250), method=FunBaT(kernel=name, max_steps=8))
    assert np.sqrt(np.mean((found.predict(points) - values) ** 2)) < 0.05
    assert found.heldout_error is not None
    assert found.heldout_error < 0.2


def test_a_mask_of_a_smooth_array_with_uneven_coordinates() -> None:
    t = np.sort(np.random.default_rng(0).random(14)) * 5
    x = np.sin(t)[:, None, None] * np.cos(t[:10])[None, :, None] + t[:1, None, None] * np.ones((14, 10, 1))
    x = np.broadcast_to(x, (14, 10, 1)).copy()
    mask = np.random.default_rng(1).random(x.shape) < 0.5
    mask[5] = False  # a whole slice is missing; neighbours tell it
    method = FunBaT(coordinates=(tuple(t), tuple(t[:10]), (0.0,)), max_steps=10)
    done = complete(np.where(mask, x, np.nan), "tucker", rank=(3, 3, 1), method=method)
    assert np.linalg.norm(done.filled - x) < 0.1 * np.linalg.norm(x)
    assert np.array_equal(done.filled[mask], x[mask])
    everywhere = np.argwhere(np.ones_like(mask))
    spread = done.std(everywhere).reshape(x.shape)
    assert spread[5].mean() > spread[~np.isin(np.arange(14), [5])].mean()
    assert complete(np.where(mask, x, np.nan), method="funbat").tensor.name == "tucker"  # type: ignore[union-attr]


def test_seeds_time_and_interrupt() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((200, 2))
    values = np.sin(3 * points).prod(1) + 0.1 * rng.normal(size=200)
    first = complete_points(points, values, rank=2).predict(points)
    assert np.array_equal(first, complete_points(points, values, rank=2).predict(points))
    assert complete_points(points, values, time_limit_s=1e-3).status.name == "time_limit"

    def press(info: StepInfo) -> None:
        if info.step == 2:
            raise KeyboardInterrupt

    stopped = complete_points(points, values, progress=press)
    assert stopped.status.name == "interrupted"
    assert np.isfinite(stopped.predict(points)).all()


def test_small_things() -> None:
    line = complete_points([[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 2.0, 3.0], rank=2, method=FunBaT(holdout=0.0))
    assert line.predict([[1.5]])[0] == pytest.approx(1.5, abs=0.3)
    same = complete_points(np.zeros((5, 2)), np.ones(5), rank=1)
    assert same.predict(np.zeros((1, 2)))[0] == pytest.approx(1.0)
    x = torch.ones(6, 5)
    assert torch.allclose(complete(x, mask=torch.eye(6, 5) == 0, method="funbat", rank=1).filled, x, atol=0.05)
    zero = complete(np.zeros((4, 5)), mask=np.eye(4, 5) == 0, method="funbat", rank=1)
    assert np.isfinite(zero.filled).all()


def test_refusals() -> None:
    x = np.random.default_rng(0).random((6, 5))
    with pytest.raises(OptionError, match='fits format "tucker" alone'):
        complete(x, "tt", method="funbat")
    with pytest.raises(OptionError, match="gives no standard deviations"):
        complete(x, "tt", rank=1).std([[0, 0]])
    with pytest.raises(DTypeError, match="real arrays"):
        complete(x * 1j, method="funbat")
    with pytest.raises(OptionError, match="takes no weights"):
        complete(x, method="funbat", weights=np.ones_like(x))
    with pytest.raises(ShapeError, match="one ascending"):
        complete(x, method=FunBaT(coordinates=((0.0, 1.0), (0.0,))))
    with pytest.raises(OptionError, match="matern12"):
        FunBaT(kernel="rbf")
    with pytest.raises(OptionError, match="damping"):
        FunBaT(damping=0.0)
    with pytest.raises(DataError, match="NaN"):
        complete_points([[0.0], [np.nan]], [1.0, 2.0])
    with pytest.raises(ShapeError, match=r"\(N, d\)"):
        complete_points([0.0, 1.0], [1.0, 2.0])
    with pytest.raises((MaskError, DataError)):
        complete_points(np.zeros((0, 2)), np.zeros(0))
    with pytest.raises(RankError, match="rank=0"):
        complete_points([[0.0], [1.0]], [1.0, 2.0], rank=0)
    with pytest.raises(ShapeError, match="coordinates"):
        complete_points([[0.0], [1.0]], [1.0, 2.0], rank=1).predict([[0.0, 1.0]])
    with pytest.raises(OptionError, match="level"):
        complete_points([[0.0], [1.0]], [1.0, 2.0], rank=1).interval([[0.0]], 1.0)
    with pytest.raises(DTypeError, match="complex"):
        complete_points([[1j], [1.0]], [1.0, 2.0])
