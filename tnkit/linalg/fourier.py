"""Fourier transforms over any number of modes: the libraries behind torch take a few at a time.

Example:
    >>> import torch
    >>> x = torch.ones((2,) * 10)
    >>> float(fft(x, range(10))[(0,) * 10].real), bool((ifft(fft(x, range(10)), range(10)).real == x).all())
    (1024.0, True)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["fft", "ifft"]

#: Modes in one call; oneMKL takes 7, cuFFT 3.
AT_ONCE = 3


def fft(x: Tensor, modes: Sequence[int]) -> Tensor:
    """`torch.fft.fftn` over these modes; `x` itself where there are none."""
    for k in range(0, len(modes), AT_ONCE):
        x = torch.fft.fftn(x, dim=tuple(modes[k : k + AT_ONCE]))
    return x


def ifft(x: Tensor, modes: Sequence[int]) -> Tensor:
    """`torch.fft.ifftn` over these modes; `x` itself where there are none."""
    for k in range(0, len(modes), AT_ONCE):
        x = torch.fft.ifftn(x, dim=tuple(modes[k : k + AT_ONCE]))
    return x
