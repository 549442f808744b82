"""CP by blocks of terms: bounded memory, errors that fall and are true, limits that hold."""

from math import inf

import pytest
import torch

import tnkit as tk
from tests.largest import Largest
from tnkit.decompose import relative_error
from tnkit.decompose.cp_als import CPALS
from tnkit.decompose.cp_blocks import BLOCK, MANY, fit_blocks
from tnkit.formats import random_format
from tnkit.solvers import Control


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(), dtype=torch.float64)


def test_no_tensor_has_the_square_of_the_rank():
    x, rank = noise(16, 16, 16, 16), MANY + 500
    with Largest() as seen:
        fit = tk.decompose(x, "cp", rank=rank, method=CPALS(max_steps=2))
    assert seen.most <= 2 * BLOCK**2 < rank**2 / 2
    assert fit.tensor.ranks == (rank,)
    assert relative_error(x, fit.tensor) == pytest.approx(fit.rel_error, rel=1e-6)
    assert fit.rel_error < 0.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128], ids=str)
def test_blocks_find_what_was_planted(dtype: torch.dtype):
    x = random_format("cp", (8, 9, 10), 4, dtype=dtype, rng=0).to_dense()
    norm = float(torch.linalg.vector_norm(x))
    found = fit_blocks(x, norm, 10, Control(max_steps=60, tol=0.0), rng(), block=4)
    assert found.error < 0.02
    errors = [info.error for info in found.history]
    assert errors == sorted(errors, reverse=True)
    value = tk.CP.from_tensors(found.tensors)
    assert relative_error(x, value, norm=norm) == pytest.approx(found.error, abs=1e-5)


def test_a_start_goes_on_where_it_was():
    x = noise(6, 7, 8)
    norm = float(x.norm())
    first = fit_blocks(x, norm, 8, Control(max_steps=2), rng(), block=3)
    more = fit_blocks(x, norm, first.tensors, Control(max_steps=5), rng(), block=3)
    assert more.history[0].error <= first.error * (1 + 1e-9)
    assert more.error < first.error


def test_out_of_time_leaves_the_blocks_that_were_done():
    x = noise(6, 7, 8)
    found = fit_blocks(x, float(x.norm()), 9, Control(deadline=-inf), rng(), block=3)
    assert found.status.name == "time_limit"
    assert len(found.history) == 1
    assert found.error < 1.0
    assert int((found.tensors[1] != 0).any(0).sum()) == 3


def test_an_array_that_is_met_needs_no_more_terms():
    x = torch.zeros(3, 4, 5, dtype=torch.float64)
    x[0, 0, 0] = 1.0
    found = fit_blocks(x, 1.0, 6, Control(max_steps=4), rng(), block=2)
    assert found.error < 1e-6
    assert all(bool(torch.isfinite(t).all()) for t in found.tensors)
