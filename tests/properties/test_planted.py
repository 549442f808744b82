"""Property 4: planted ranks are found."""

from __future__ import annotations

import pytest
import torch

import tnkit as tk
from tests.properties.data import DTYPES, true_error
from tnkit.formats import random_format


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("name", "ranks"),
    [("tt", (2, 3, 4)), ("tucker", (2, 3, 2, 3)), ("ht", (3, 2, 2, 3, 2, 3)), ("lowrank", (4,)), ("tubal", (2,))],
)
def test_planted_ranks_are_found(name, ranks, dtype):
    for seed in range(5):
        x = random_format(name, (6, 7, 5, 6), ranks, dtype=dtype, rng=seed).to_dense()
        fit = tk.decompose(x, name, eps=1e-4 if dtype.itemsize // (2 if dtype.is_complex else 1) == 4 else 1e-9)
        assert all(found <= planted for found, planted in zip(fit.ranks, ranks, strict=True)), (fit.ranks, ranks)
        assert fit.status.ok


def test_ten_of_ten_planted_rings():
    for seed in range(10):
        x = random_format("tr", (10, 10, 10, 10), 3, rng=seed).to_dense()
        fit = tk.decompose(x, "tr", rank=3, method="ring_als")
        assert true_error(x, fit.tensor.to_dense()) < 1e-6, seed


def test_planted_cp_is_found():
    for seed in range(5):
        x = random_format("cp", (8, 9, 10), 5, rng=seed).to_dense()
        fit = tk.decompose(x, "cp", rank=5)
        assert true_error(x, fit.tensor.to_dense()) < 1e-6, seed


def test_a_planted_network_is_found():
    equation = "iab,jbc,kca->ijk"
    x = random_format(equation, (8, 8, 8), 2, rng=0).to_dense()
    fit = tk.decompose(x, equation, rank=2)
    assert true_error(x, fit.tensor.to_dense()) < 1e-6
    assert torch.is_tensor(fit.tensor.to_dense())
