"""Random numbers: always from a generator that the caller names, never from a global one.

Example:
    >>> import torch
    >>> from tnkit.rng import generator, normal
    >>> a = normal((2, 3), torch.zeros(1), generator(7))
    >>> b = normal((2, 3), torch.zeros(1), generator(7))
    >>> bool((a == b).all())
    True
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from tnkit.errors import OptionError

__all__ = ["RngLike", "generator", "normal"]

RngLike: TypeAlias = "int | torch.Generator | np.random.Generator | None"


def generator(rng: RngLike = None, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on `device`.

    Args:
        rng: None for fresh entropy, an int as a seed, a NumPy generator to draw a seed from, or a torch generator
            (returned as it is, whatever its device).
        device: where the generator lives.

    Raises:
        OptionError: `rng` is none of these, or a negative seed.
    """
    if isinstance(rng, torch.Generator):
        return rng
    if rng is None:
        seed = secrets.randbits(63)
    elif isinstance(rng, np.random.Generator):
        seed = int(rng.integers(0, 2**63 - 1))
    elif isinstance(rng, int | np.integer) and not isinstance(rng, bool):
        seed = int(rng)
    else:
        raise OptionError(f"rng={rng!r} is not a seed. Give None, an int, a torch.Generator or a NumPy Generator.")
    if seed < 0:
        raise OptionError(f"rng={seed} is negative. Give a seed of 0 or more.")
    gen = torch.Generator(device=device)
    gen.manual_seed(seed)
    return gen


def normal(shape: Sequence[int], like: Tensor, gen: torch.Generator) -> Tensor:
    """Standard normal numbers with the dtype and device of `like` (complex: unit variance in all).

    Args:
        shape: of the result.
        like: gives dtype and device.
        gen: the generator; one on another device draws there, and the numbers are then moved.
    """
    drawn = torch.randn(tuple(shape), dtype=like.dtype, device=gen.device, generator=gen)
    return drawn if gen.device == like.device else drawn.to(like.device)
