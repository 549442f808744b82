"""Rows as draws from a mixture of Gaussians: expectations, choices, deviations, and tables of odd forms."""

import numpy as np
import pytest
import torch

from tnkit.completion import RowGroups, complete
from tnkit.completion.row_mixture import Rows
from tnkit.errors import DTypeError, OptionError, ShapeError
from tnkit.solvers import StepInfo


def off(filled: np.ndarray, x: np.ndarray, seen: np.ndarray) -> float:
    return float(np.linalg.norm((np.asarray(filled) - x)[~seen]) / np.linalg.norm(x[~seen]))


def gaussian_rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of a Gaussian with mean and covariance, which come with them."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(6, 6)) * [2.0, 1.5, 1.0, 0.5, 0.3, 0.2]
    mean = rng.normal(size=6) * 3
    return mean + rng.normal(size=(n, 6)) @ root.T, mean, root @ root.T


def conditional(x: np.ndarray, seen: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Expectations of what is missing by the textbook, row by row."""
    filled = x.copy()
    for row, known in zip(filled, seen, strict=True):
        gain = covariance[np.ix_(~known, known)] @ np.linalg.pinv(covariance[np.ix_(known, known)])
        row[~known] = mean[~known] + gain @ (row[known] - mean[known])
    return filled


def two_kinds(n: int, seed: int) -> np.ndarray:
    """Rows of two kinds: what the second and third column say of the first is of opposite sign."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, n)
    z = rng.normal(size=(n, 2))
    first = np.where(kind == 0, z[:, 0] + z[:, 1], -z[:, 0] - z[:, 1])
    apart = 6.0 * kind[:, None] + rng.normal(size=(n, 3))
    return np.column_stack([first, z, apart]) + 0.1 * rng.normal(size=(n, 6))


def test_expectations_variances_and_densities_are_those_of_the_textbook() -> None:
    x, mean, covariance = gaussian_rows(40, 0)
    seen = np.random.default_rng(1).random(x.shape) < 0.6
    seen[0], seen[1] = True, False
    t, centre, spread = torch.from_numpy(x), torch.from_numpy(mean), torch.from_numpy(covariance)
    filled, variance, batches, density = Rows(t, torch.from_numpy(seen))._expect(centre, spread)
    assert np.allclose(filled.numpy(), conditional(x, seen, mean, covariance))
    total = Rows(t, torch.from_numpy(seen))._summed(batches, torch.ones(40, dtype=torch.float64))
    direct = np.zeros((6, 6))
    for row, known in enumerate(seen):
        inner = np.linalg.inv(np.linalg.inv(covariance)[np.ix_(~known, ~known)])
        assert np.allclose(variance[row].numpy()[~known], inner.diagonal())
        direct[np.ix_(~known, ~known)] += inner
        if known.any():
            part = spread[known][:, known]
            wanted = torch.distributions.MultivariateNormal(centre[known], part).log_prob(t[row][known])
            assert density[row].item() == pytest.approx(wanted.item())
    assert variance.numpy()[seen].max() == 0
    assert np.allclose(total.numpy(), direct)


def test_it_is_near_the_conditional_mean_of_the_true_gaussian() -> None:
    ratios = []
    for seed in range(4):
        x, mean, covariance = gaussian_rows(200, seed)
        seen = np.random.default_rng(seed).random(x.shape) < 0.7
        best = off(conditional(x, seen, mean, covariance), x, seen)
        ratios.append(off(complete(x, mask=seen, method="groups").filled, x, seen) / best)
    assert np.mean(ratios) < 1.1


def test_groups_are_found_where_there_are_some() -> None:
    one, chosen = [], []
    for seed in range(3):
        x = two_kinds(300, seed)
        seen = np.random.default_rng(seed).random(x.shape) < 0.8
        one.append(off(complete(x, mask=seen, method=RowGroups(groups=1)).filled, x, seen))
        chosen.append(off(complete(x, mask=seen, method="groups").filled, x, seen))
    assert np.mean(chosen) < 0.8 * np.mean(one)


def test_deviations_cover_what_is_missing() -> None:
    covered = []
    for seed in range(3):
        x = two_kinds(300, seed)
        seen = np.random.default_rng(seed).random(x.shape) < 0.8
        done = complete(x, mask=seen, method="groups")
        at = np.argwhere(~seen)
        spread = np.asarray(done.std(at))
        covered.append(np.mean(np.abs(np.asarray(done.predict(at)) - x[~seen]) < 1.645 * spread))
        assert np.abs(np.asarray(done.std(np.argwhere(seen)))).max() == 0
    assert 0.82 < np.mean(covered) < 0.97


def test_neither_the_order_of_rows_nor_units_matter() -> None:
    x, _, _ = gaussian_rows(60, 3)
    rng = np.random.default_rng(0)
    seen, order = rng.random(x.shape) < 0.7, rng.permutation(60)
    method = RowGroups(groups=1, holdout=0.0)
    plain = np.asarray(complete(x, mask=seen, method=method).filled)
    assert np.allclose(np.asarray(complete(x[order], mask=seen[order], method=method).filled), plain[order])
    units = np.array([1e-3, 1e4, 1.0, 50.0, 1e6, 0.2])
    assert np.allclose(np.asarray(complete(x * units + 7, mask=seen, method=method).filled), plain * units + 7)
    flipped = np.asarray(complete(x.T.copy(), mask=seen.T.copy(), method=method).filled)
    assert np.allclose(flipped, plain.T)  # rows are the longer mode


def test_tables_of_odd_forms() -> None:
    rng = np.random.default_rng(0)
    x = two_kinds(60, 0)
    x[:, 2] = 4.0
    seen = rng.random(x.shape) < 0.7
    seen[5], seen[:, 1] = False, False
    filled = np.asarray(complete(x, mask=seen, method="groups").filled)
    assert np.isfinite(filled).all()
    assert np.allclose(filled[:, 2], 4.0)
    wide = rng.normal(size=(12, 30, 3))
    seen = rng.random(wide.shape) < 0.5
    assert np.isfinite(np.asarray(complete(wide.astype(np.float32), mask=seen, method="groups").filled)).all()
    tiny = complete([[1.0, 2.0], [2.0, 4.0], [3.0, None]], method="groups").filled
    assert np.isfinite(np.asarray(tiny)).all()
    with pytest.raises(DTypeError, match="real arrays"):
        complete(np.where(seen, wide * 1j, np.nan), method="groups")
    with pytest.raises(ShapeError, match="2 and more modes"):
        complete(np.array([1.0, np.nan, 2.0]), method="groups")
    for bad in ({"groups": 0}, {"pull": 0.0}, {"holdout": 1.0}):
        with pytest.raises(OptionError, match="must be"):
            RowGroups(**bad)


def test_time_and_interrupts() -> None:
    x = two_kinds(300, 0)
    seen = np.random.default_rng(0).random(x.shape) < 0.7
    short = complete(x, mask=seen, method="groups", time_limit_s=1e-6)
    assert short.status.name == "time_limit"

    def press(info: StepInfo) -> None:
        if info.step == 3:
            raise KeyboardInterrupt

    done = complete(x, mask=seen, method="groups", progress=press)
    assert done.status.name == "interrupted"
    assert off(done.filled, x, seen) < 1.0
