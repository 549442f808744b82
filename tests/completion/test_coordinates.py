"""CP of many coordinates: recovery, memory that does not grow with the array, short time, Ctrl-C, refusals."""

import numpy as np
import pytest
import torch

from tnkit.completion import CoordinateCP, Observations, complete
from tnkit.completion.cp_entries import CPEntries
from tnkit.completion.pair_spectra import leading, pair_subspace
from tnkit.errors import OptionError
from tnkit.rng import generator
from tnkit.solvers import StepInfo


def planted(
    shape: tuple[int, ...], rank: int, n: int, noise: float = 0.0, seed: int = 0, kind: type = np.float64
) -> tuple[Observations, list[np.ndarray]]:
    """Entries at random places of a CP with normal factors."""
    rng = np.random.default_rng(seed)
    factors = [rng.normal(size=(size, rank)).astype(kind) for size in shape]
    at = np.stack([rng.integers(size, size=n) for size in shape], 1)
    return Observations(at, values(factors, at) + noise * rank**0.5 * rng.normal(size=n), shape), factors


def values(factors: list[np.ndarray], at: np.ndarray) -> np.ndarray:
    product = np.ones((len(at), factors[0].shape[1]))
    for k, f in enumerate(factors):
        product = product * f[at[:, k]]
    return product.sum(1)


def true_error(done: object, factors: list[np.ndarray]) -> float:
    rng = np.random.default_rng(99)
    at = np.stack([rng.integers(len(f), size=5000) for f in factors], 1)
    truth = values(factors, at)
    return float(np.linalg.norm(np.asarray(done.predict(at)) - truth) / np.linalg.norm(truth))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("shape", "rank", "n"), [((2000, 400, 100), 4, 100_000), ((300, 200), 3, 20_000), ((30, 25, 20, 15), 3, 30_000)]
)
def test_sparse_coordinates_are_recovered(shape: tuple[int, ...], rank: int, n: int) -> None:
    observed, factors = planted(shape, rank, n)
    done = complete(observed, "cp", rank=rank, method=CoordinateCP(tol=1e-6))
    assert true_error(done, factors) < 1e-2
    assert done.heldout_error is not None
    assert done.heldout_error < 1e-2


def test_noise_is_averaged_out_and_the_rank_is_found() -> None:
    observed, factors = planted((400, 200, 100), 4, 80_000, noise=0.1)
    done = complete(observed, "cp", method="coordinates")
    assert done.tensor is not None
    assert done.tensor.ranks == (4,)
    assert true_error(done, factors) < 0.04
    assert done.heldout_error == pytest.approx(0.1, rel=0.2)
    assert done.train_error == pytest.approx(0.1, rel=0.1)


def test_pairs_tell_the_space_of_a_mode_and_projections_refine_it() -> None:
    observed, factors = planted((500, 200, 60), 3, 60_000)
    entries = CPEntries.of(observed.indices, observed.values, observed.shape)
    clipped = (observed.values / observed.values.square().mean().sqrt()).clamp(-1, 1)
    basis = pair_subspace(entries, 2, 3, clipped, generator(0))
    q = torch.linalg.qr(torch.from_numpy(factors[2]))[0]
    shared = torch.linalg.svdvals(q.T @ basis).square()
    assert float(shared.min()) > 0.5
    wide = torch.randn(6, 40, generator=generator(0))
    assert torch.allclose(leading(wide, 6).T @ leading(wide, 6), torch.eye(6), atol=1e-4)
    projected = entries.project([clipped.new_ones(n, 1) for n in observed.shape], 1, clipped)
    assert torch.allclose(
        projected[:, 0], torch.zeros(200, dtype=torch.float64).index_add_(0, observed.indices[:, 1], clipped)
    )


def test_the_rows_are_least_squares() -> None:
    gen = generator(0)
    at = torch.stack([torch.randint(n, (300,), generator=gen) for n in (7, 6, 5)], 1)
    y, w = torch.randn(300, generator=gen).double(), torch.rand(300, generator=gen).double()
    factors = [torch.randn(n, 2, generator=gen).double() for n in (7, 6, 5)]
    entries = CPEntries.of(at, y, (7, 6, 5), w)
    got = entries.solve(factors, 1, torch.full((2,), 0.3))
    h = factors[0][at[:, 0]] * factors[2][at[:, 2]]
    for row in range(6):
        own = at[:, 1] == row
        gram = (h[own] * w[own, None]).T @ h[own] + 0.3 * torch.eye(2, dtype=torch.float64)
        assert torch.allclose(got[row], torch.linalg.solve(gram, h[own].T @ (w[own] * y[own])))
    assert entries.error2(factors) == pytest.approx(float((w * (y - entries.predict(factors)) ** 2).sum()))


def test_rows_without_entries_complex_values_vectors_and_modes_of_size_one() -> None:
    observed, _ = planted((50, 40, 30), 2, 5000)
    keep = (observed.indices[:, 0] != 7).nonzero().flatten()
    done = complete(observed.take(torch.isin(torch.arange(observed.n), keep)), "cp", rank=2, method="coordinates")
    assert np.isfinite(done.predict([[7, 0, 0]])).all()
    wave, factors = planted((30, 20, 10), 1, 3000)
    twisted = wave.with_values(wave.values * (1 + 2j))
    assert complete(twisted, "cp", rank=1, method=CoordinateCP(tol=1e-6)).train_error < 1e-3
    assert np.isfinite(complete([1.0, np.nan, 3.0], "cp", rank=1, method="coordinates").filled).all()
    thin, factors = planted((60, 1, 50), 1, 1500)
    assert true_error(complete(thin, "cp", rank=1, method=CoordinateCP(tol=1e-6)), factors) < 1e-2
    assert np.all(complete(np.array([[0.0, np.nan], [0.0, 0.0]]), "cp", rank=1, method="coordinates").filled == 0)


def test_too_few_entries_are_said_to_be_too_few() -> None:
    observed, _ = planted((1000, 800, 500), 6, 5000)
    done = complete(observed, "cp", rank=6, method=CoordinateCP(max_steps=10, starts=1))
    assert done.status.name == "nothing_found"
    assert not done.status.ok
    assert done.heldout_error is not None
    assert done.heldout_error > 0.9


def test_weights_count() -> None:
    observed, factors = planted((100, 80, 60), 2, 20_000)
    spoilt = observed.values.clone()
    spoilt[::4] += 50.0
    weights = torch.ones_like(spoilt)
    weights[::4] = 0.0
    done = complete(
        observed.with_values(spoilt).with_weights(weights), "cp", rank=2, method=CoordinateCP(tol=1e-6, max_steps=30)
    )
    assert true_error(done, factors) < 1e-2


def test_seeds_time_limit_and_interrupt() -> None:
    observed, _ = planted((300, 100, 50), 3, 20_000, noise=0.2)
    first = complete(observed, "cp", rank=3, method="coordinates")
    at = [[1, 2, 3]]
    assert first.predict(at) == complete(observed, "cp", rank=3, method="coordinates").predict(at)
    assert complete(observed, "cp", rank=3, method="coordinates", time_limit_s=1e-3).status.name == "time_limit"

    def press(info: StepInfo) -> None:
        if info.step == 2:
            raise KeyboardInterrupt

    done = complete(observed, "cp", rank=3, method="coordinates", progress=press)
    assert done.status.name == "interrupted"
    assert done.train_error < 0.9


def test_refusals() -> None:
    observed, _ = planted((30, 20, 10), 1, 500)
    with pytest.raises(OptionError, match='Use format "cp"'):
        complete(observed, "tt", method="coordinates")
    with pytest.raises(OptionError, match="max_rank 1 to 16"):
        CoordinateCP(max_rank=0)
    with pytest.raises(OptionError, match="holdout"):
        CoordinateCP(holdout=0.0)


def test_many_coordinates_of_a_large_array_are_chosen_by_themselves() -> None:
    observed, factors = planted((3000, 1500, 400), 3, 250_000, noise=0.1)
    done = complete(observed)
    assert done.method == "coordinates"
    assert done.tensor is not None
    assert done.tensor.ranks == (3,)
    assert true_error(done, factors) < 0.05
