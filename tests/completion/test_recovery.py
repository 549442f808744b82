"""Planted tensors come back from few samples: to rounding where the data is exact."""

import pytest
import torch

from tnkit.completion import Completion, CompletionALS, Observations, complete
from tnkit.formats import CP, BTDSpec, FormatSpec, random_format
from tnkit.rng import generator


def planted(
    spec: str | FormatSpec,
    shape: tuple[int, ...],
    rank: int,
    share: float,
    seed: int,
    dtype: torch.dtype = torch.float64,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random tensor of this format, and which of its entries are observed."""
    gen = generator(seed)
    x = random_format(spec, shape, rank, rng=gen, dtype=dtype).to_dense()
    return x, torch.rand(shape, generator=gen, dtype=torch.float64) < share


def error(done: Completion, x: torch.Tensor) -> float:
    """On all entries, of the fit itself."""
    assert done.tensor is not None
    return float((done.tensor.to_dense() - x).norm() / x.norm())


MUST = [
    ("tt", (15, 15, 15, 15), 3, 0.10),
    ("tr", (15, 15, 15, 15), 3, 0.10),
    ("tucker", (30, 30, 30), 3, 0.10),
    ("cp", (40, 40, 40), 5, 0.05),
]


@pytest.mark.parametrize("rank", ["given", "auto"])
@pytest.mark.parametrize(("spec", "shape", "true_rank", "share"), MUST, ids=[m[0] for m in MUST])
def test_planted(spec: str, shape: tuple[int, ...], true_rank: int, share: float, rank: str) -> None:
    x, mask = planted(spec, shape, true_rank, share, seed=0)
    done = complete(x, spec, mask=mask, rank=true_rank if rank == "given" else "auto")
    assert error(done, x) < 1e-8
    assert done.heldout_error is not None
    assert done.heldout_error < 1e-7
    assert done.status.ok
    assert done.tensor is not None
    assert max(done.tensor.ranks) == true_rank


@pytest.mark.parametrize(
    ("spec", "shape", "rank", "freedom"),
    [
        ("tt", (12, 12, 12, 12), 2, 2 * 12 * (1 + 2) * 2 - 3 * 4),
        ("tr", (12, 12, 12, 12), 2, 4 * 12 * 4 - 4 * 4),
        ("tucker", (20, 20, 20), 2, 3 * 20 * 2 + 8 - 3 * 4),
        ("cp", (20, 20, 20), 2, 2 * (3 * 20 - 2)),
        ("ht", (8, 8, 8), 2, 3 * 8 * 2 + 2 * 8 - 4 * 4),
        (BTDSpec(terms=2), (12, 12, 12), 1, 2 * (3 * 12 - 2)),
        ("lowrank", (40, 30), 2, 2 * (40 + 30 - 2)),
        ("ia,ajb,bk,kc->ijc", (16, 16, 16), 2, 16 * 2 + 16 * 4 + 16 * 2),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_six_samples_per_degree_of_freedom(
    spec: str | FormatSpec, shape: tuple[int, ...], rank: int, freedom: int, seed: int
) -> None:
    x, _ = planted(spec, shape, rank, 0.5, seed)
    picks = torch.randperm(x.numel(), generator=generator(seed))[: 6 * freedom]
    mask = torch.zeros(x.numel(), dtype=torch.bool)
    mask[picks] = True
    assert error(complete(x, spec, mask=mask.reshape(shape), rank=rank), x) < 1e-6


def test_complex_values() -> None:
    x, mask = planted("tt", (10, 10, 10), 2, 0.3, 0, torch.complex128)
    done = complete(x, "tt", mask=mask)
    assert error(done, x) < 1e-8
    assert done.filled.dtype == torch.complex128
    assert done.predict([[0, 1, 2]]).dtype == torch.complex128


def test_single_precision() -> None:
    x, mask = planted("tt", (12, 12, 12), 2, 0.3, 0, torch.float32)
    done = complete(x, "tt", mask=mask, rank=2)
    assert done.filled.dtype == torch.float32
    assert error(done, x) < 1e-4


@pytest.mark.parametrize(("spec", "shape"), [("ttm", (36, 36)), ("kron", (30, 30)), ("tubal", (16, 16, 3))])
def test_reshaped_and_fourier_formats(spec: str, shape: tuple[int, ...]) -> None:
    x, mask = planted(spec, shape, 1 if spec == "kron" else 2, 0.8, 0)
    assert error(complete(x, spec, mask=mask, rank=1 if spec == "kron" else 2), x) < 1e-6


def test_noise_is_not_fitted() -> None:
    x, mask = planted("tt", (12, 12, 12), 2, 0.4, 0)
    noisy = x + 0.05 * torch.randn(x.shape, dtype=x.dtype, generator=generator(9))
    done = complete(noisy, "tt", mask=mask)
    assert done.tensor is not None
    assert max(done.tensor.ranks) <= 4
    assert error(done, x) < 0.06
    assert done.heldout_error is not None
    assert 0.03 < done.heldout_error < 0.1


def test_scale_does_not_matter() -> None:
    x, mask = planted("tt", (8, 8, 8), 2, 0.5, 0)
    for scale in (1e-150, 1e150):
        done = complete(x * scale, "tt", mask=mask, rank=2)
        assert done.tensor is not None
        assert float((done.tensor.to_dense() / scale - x).norm() / x.norm()) < 1e-8


def test_entries_of_weight_zero_do_not_count() -> None:
    x, mask = planted("tt", (10, 10, 10), 2, 0.5, 0)
    wrong = torch.rand(x.shape, generator=generator(4)) < 0.1
    weights = torch.where(wrong, 0.0, 1.0)
    spoilt = torch.where(wrong, x + 100, x)
    done = complete(spoilt, "tt", mask=mask, rank=2, weights=weights)
    assert error(done, x) < 1e-8
    assert torch.equal(done.filled[mask], spoilt[mask])


def test_coordinates_of_a_huge_array() -> None:
    gen = generator(0)
    shape = (1000,) * 6
    factors = [torch.rand(n, 1, dtype=torch.float64, generator=gen) + 0.5 for n in shape]
    truth = CP.from_parts(torch.ones(1, dtype=torch.float64), factors)
    indices = torch.stack([torch.randint(n, (20000,), generator=gen) for n in shape], -1)
    done = complete(Observations(indices, truth.at(indices), shape), "cp", rank=1)
    fresh = torch.stack([torch.randint(n, (500,), generator=gen) for n in shape], -1)
    assert float((done.predict(fresh) - truth.at(fresh)).norm() / truth.at(fresh).norm()) < 1e-6


@pytest.mark.parametrize(("spec", "rank"), [("cp", 3), ("cp", "auto"), ("tt", 2)])
def test_ranks_and_starts_from_a_part_of_the_entries(spec: str, rank: int | str) -> None:
    gen = generator(0)
    shape = (1500, 50, 40)
    truth = random_format(spec, shape, 3 if spec == "cp" else 2, rng=gen, dtype=torch.float64)
    indices = torch.stack([torch.randint(n, (40_000,), generator=gen) for n in shape], -1)
    noise = torch.randn(40_000, generator=gen, dtype=torch.float64)
    values = truth.at(indices)
    noisy = values + 0.01 * values.std() * noise
    done = complete(Observations(indices, noisy, shape), spec, rank=rank, method=CompletionALS(sample=8000))
    assert done.tensor is not None
    assert done.tensor.shape == shape
    assert float((done.tensor.at(indices) - values).norm() / values.norm()) < 0.01
    short = complete(
        Observations(indices, noisy, shape), spec, rank=rank, method=CompletionALS(sample=8000), time_limit_s=0.05
    )
    assert short.status.name == "time_limit"


def test_rows_without_entries_get_the_mean_of_the_others() -> None:
    x = torch.ones(8, 9, dtype=torch.float64) * 3
    mask = torch.ones(8, 9, dtype=torch.bool)
    mask[5] = False
    filled = complete(x, "tt", mask=mask, rank=1).filled
    torch.testing.assert_close(filled, x)


def test_held_out_error_can_be_left_out() -> None:
    x, mask = planted("tt", (8, 8, 8), 2, 0.5, 0)
    done = complete(x, "tt", mask=mask, rank=2, method=CompletionALS(holdout=0.0))
    assert done.heldout_error is None
    assert error(done, x) < 1e-8
