"""Arrays to decompose: planted ones with noise of a known size, and real ones that ordinary packages carry."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from tnkit.formats import random_format

Made = Callable[[], Tensor]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def with_noise(x: Tensor, noise: float, gen: torch.Generator) -> Tensor:
    """Normalised, plus white noise of relative norm `noise`; in place, for arrays that fill the memory."""
    x /= torch.linalg.vector_norm(x)
    if noise:
        white = torch.randn(x.shape, generator=gen, dtype=x.dtype)
        x += white.mul_(noise / float(torch.linalg.vector_norm(white)))
    return x


def train(shape: tuple[int, ...], rank: int, noise: float = 1e-3, dtype: torch.dtype = torch.float64) -> Made:
    """A random train of the rank (less where the shape admits less) with noise."""

    def make() -> Tensor:
        gen, x = generator(), torch.ones(1, 1, dtype=dtype)
        for n in shape[:-1]:
            core = torch.randn(x.shape[1], n * rank, generator=gen, dtype=dtype)
            x = (x @ core).reshape(-1, rank)
            x /= x.abs().max()
        return with_noise((x @ torch.randn(rank, shape[-1], generator=gen, dtype=dtype)).reshape(shape), noise, gen)

    return make


def tucker(shape: tuple[int, ...], rank: int, noise: float = 1e-2, dtype: torch.dtype = torch.float64) -> Made:
    """A random core with orthonormal factors and noise."""

    def make() -> Tensor:
        gen = generator()
        x = torch.randn([min(rank, n) for n in shape], generator=gen, dtype=dtype)
        for k, n in enumerate(shape):
            q = torch.linalg.qr(torch.randn(n, min(rank, n), generator=gen, dtype=dtype)).Q
            x = torch.movedim(torch.tensordot(x, q, dims=([k], [1])), -1, k)
        return with_noise(x.contiguous(), noise, gen)

    return make


def tree(shape: tuple[int, ...], rank: int, noise: float = 1e-3) -> Made:
    """A random hierarchical Tucker tensor of the rank with noise."""

    def make() -> Tensor:
        return with_noise(random_format("ht", shape, rank, rng=0).to_dense().contiguous(), noise, generator())

    return make


def real() -> dict[str, Made]:
    """Indian Pines (145×145×200) and a stack of photographs (n×256×256×3), where their packages are installed."""
    found: dict[str, Made] = {}
    if find_spec("tensorly"):
        found["Indian Pines"] = indian_pines
    if find_spec("skimage"):
        found["photographs"] = photographs
    return found


def indian_pines() -> Tensor:
    from tensorly.datasets import load_indian_pines

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.as_tensor(np.ascontiguousarray(load_indian_pines()["tensor"], dtype=np.float64))


def photographs() -> Tensor:
    from skimage import data

    crops = []
    for photo in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket()):
        h, w = (photo.shape[0] - 256) // 2, (photo.shape[1] - 256) // 2
        crops.append(photo[h : h + 256, w : w + 256])
    return torch.as_tensor(np.stack(crops) / 255.0)
