"""Several CP starts swept side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import tnkit as tk
from tnkit.decompose.cp_starts import random_start
from tnkit.decompose.mttkrp import CPLeastSquares, balanced
from tnkit.decompose.race import race
from tnkit.solvers import INTERRUPTED, REACHED, Control, StepInfo

NEAR = {torch.float64: 1e-9, torch.complex128: 1e-9, torch.float32: 1e-3}


def problem(dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = (9, 8, 7)) -> tuple[Tensor, CPLeastSquares]:
    x = tk.random_format("cp", shape, 3, dtype=dtype, rng=0).to_dense()
    x = x + 0.05 * torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1)) * x.abs().mean()
    return x, CPLeastSquares(x, float(torch.linalg.vector_norm(x)))


def starts(x: Tensor, norm: float, count: int, rank: int = 3) -> list[tuple[Tensor, ...]]:
    gen = torch.Generator().manual_seed(2)
    return [balanced(random_start(x, rank, norm, gen)[1:]) for _ in range(count)]


@pytest.mark.parametrize("dtype", list(NEAR))
@pytest.mark.parametrize("shape", [(9, 8, 7), (5, 4, 3, 6), (30, 2)])
def test_a_sweep_of_many_is_a_sweep_of_each(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, terms = problem(dtype, shape)
    several = starts(x, terms.norm, 4)
    moved, errors = terms.sweep_all([torch.stack(list(parts)) for parts in zip(*several, strict=True)])
    for k, start in enumerate(several):
        alone, error = terms.sweep(start)
        assert errors[k] == pytest.approx(error, rel=1e-3 if dtype == torch.float32 else 1e-8, abs=NEAR[dtype] ** 1.5)
        dense = [tk.CP(t[0], tuple(t[1:])).to_dense() for t in (alone, [m[k] for m in moved])]
        assert float((dense[0] - dense[1]).norm() / dense[0].norm()) < NEAR[dtype]


def test_the_winner_is_as_good_as_told_and_no_worse_than_any_start_alone_at_first() -> None:
    x, terms = problem()
    several = starts(x, terms.norm, 6)
    out = race(terms, several, Control(max_steps=40, tol=0.0))
    best = tk.CP(out.tensors[0][0], tuple(out.tensors[0][1:])).to_dense()
    assert float((x - best).norm() / x.norm()) == pytest.approx(out.errors[0], rel=1e-6)
    assert out.errors == tuple(sorted(out.errors))
    assert len(out.history) == 40
    assert min(info.error for info in out.history) == out.errors[0]
    for start in several:
        alone = start
        for _ in range(3):
            alone, error = terms.sweep(alone)
        assert out.errors[0] <= error * (1 + 1e-9)


def test_starts_are_left_alone() -> None:
    x, terms = problem()
    several = starts(x, terms.norm, 3)
    copies = [[t.clone() for t in start] for start in several]
    race(terms, several, Control(max_steps=5))
    assert all(torch.equal(a, b) for s, c in zip(several, copies, strict=True) for a, b in zip(s, c, strict=True))


def test_a_target_and_an_interruption_end_it_with_the_best_so_far() -> None:
    x, terms = problem()
    several = starts(x, terms.norm, 3)
    assert race(terms, several, Control(max_steps=100, tol=0.0, target=0.5)).status is REACHED

    def stop(info: StepInfo) -> None:
        if info.step == 4:
            raise KeyboardInterrupt

    out = race(terms, several, replace(Control(max_steps=100, tol=0.0), progress=stop))
    assert out.status is INTERRUPTED
    assert out.errors[0] == min(info.error for info in out.history)
