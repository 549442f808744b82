"""Arrays for the property tests: every dtype and order, sizes of 1, and spectra that are flat, decaying or planted."""

from __future__ import annotations

from math import prod

import torch
from hypothesis import strategies as st
from torch import Tensor

from tnkit.formats import random_format
from tnkit.rng import generator, normal

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
REAL = {torch.float32: torch.float32, torch.complex64: torch.float32}

#: The largest dense size of an example, by order: small enough for thousands of fits.
LIMIT = 1200


@st.composite
def shapes(draw: st.DrawFn, *, least: int = 1, most: int = 7) -> tuple[int, ...]:
    """Shapes of order 1 to 7, with sizes of 1 and primes among them."""
    order = draw(st.integers(least, most))
    found: list[int] = []
    for _ in range(order):
        room = max(1, LIMIT // max(1, prod(found)))
        found.append(draw(st.integers(1, min(13 if order < 4 else 5, room))))
    return tuple(found)


def array(shape: tuple[int, ...], kind: str, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """An array: "noise" (flat spectra), "smooth" (decaying ones), "planted" (a train of rank 2 and noise), "zero"."""
    gen = generator(seed)
    like = torch.empty(0, dtype=dtype)
    if kind == "zero":
        return torch.zeros(shape, dtype=dtype)
    if kind == "noise":
        return normal(shape, like, gen)
    if kind == "smooth":
        grid = sum(
            torch.arange(n, dtype=torch.float64).reshape([n if k == m else 1 for m in range(len(shape))])
            for k, n in enumerate(shape)
        )
        values = 1.0 / (1.0 + grid)
        return (values * torch.exp(0.3j * grid)).to(dtype) if dtype.is_complex else values.to(dtype)
    planted = random_format("tt", shape, 2, dtype=dtype, rng=gen).to_dense()
    return planted + 1e-3 * normal(shape, like, gen)


def kinds() -> st.SearchStrategy[str]:
    """The kinds of `array`."""
    return st.sampled_from(["noise", "smooth", "planted"])


def strided(x: Tensor) -> Tensor:
    """The same values in memory that is not contiguous."""
    wide = x.new_zeros([2 * n for n in x.shape])
    view = wide[tuple(slice(None, None, 2) for _ in x.shape)]
    view.copy_(x)
    return view


def true_error(x: Tensor, approximation: Tensor) -> float:
    """‖x − x̂‖/‖x‖ in double precision, by way of the largest entry so that no square leaves the range."""
    wide = torch.complex128 if x.is_complex() else torch.float64
    a, b = x.to(wide), approximation.to(wide)
    scale = float(a.abs().max())
    if scale == 0.0:
        return float(b.abs().max())
    return float(torch.linalg.vector_norm(a / scale - b / scale) / torch.linalg.vector_norm(a / scale))
