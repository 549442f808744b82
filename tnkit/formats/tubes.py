"""Fourier slices of tubes: which are conjugates of each other, and matrices of low rank slice by slice.

The transform of a real array has conjugate slices at opposite frequencies. Only one of each pair is decomposed and the
other is its conjugate, so that the factors are real again after the transform back, exactly.

Reference: Kilmer & Martin 2011, doi:10.1016/j.laa.2010.09.020.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from tnkit.linalg import rank_for_tail
from tnkit.linalg.fourier import fft, ifft

__all__ = ["Slices", "truncated_products"]


class Slices:
    """The slices of arrays (a, b, n_2 …) in the Fourier domain of the modes after the second.

    Args:
        depths: n_2 ….
        real: whether the arrays are real.
        device: of the arrays.
    """

    def __init__(self, depths: Sequence[int], *, real: bool, device: torch.device) -> None:
        self.depths, self.real = tuple(depths), real
        self.count = prod(self.depths)
        flat = torch.arange(self.count, device=device)
        if real:
            opposite = torch.zeros_like(flat)
            left, stride = flat.clone(), 1
            for n in reversed(self.depths):
                opposite += (-(left % n) % n) * stride
                left, stride = left // n, stride * n
            self.alone, self.first = flat[opposite == flat], flat[flat < opposite]
            self.second = opposite[self.first]
        else:
            self.alone, self.first, self.second = flat[:0], flat, flat[:0]

    @property
    def weight(self) -> int:
        """How many slices each of `first` stands for."""
        return 2 if self.real else 1

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b, n_2 …) as its self-conjugate slices, real, and one of each other pair: (k, a, b) each."""
        slices = fft(x, range(2, x.ndim)).reshape(*x.shape[:2], self.count).permute(2, 0, 1)
        alone = slices[self.alone]
        return (alone.real if alone.is_complex() else alone), slices[self.first]

    def join(self, alone: Tensor, first: Tensor) -> Tensor:
        """The inverse of `split`, with the conjugates filled in; real if the arrays are."""
        like = first if first.is_complex() or not self.real else alone
        whole = torch.zeros((self.count, *alone.shape[1:]), dtype=like.dtype, device=like.device)
        whole = whole.index_copy(0, self.alone, alone.to(like.dtype)).index_copy(0, self.first, first.to(like.dtype))
        if self.real:
            whole = whole.index_copy(0, self.second, first.conj().resolve_conj().to(like.dtype))
        x = whole.permute(1, 2, 0).reshape(*alone.shape[1:], *self.depths)
        x = ifft(x, range(2, x.ndim))
        return (x.real if self.real and x.is_complex() else x).contiguous()


def truncated_products(
    parts: Sequence[tuple[Tensor, Tensor, Tensor]], weights: Sequence[int], rank: int | None, error2: float | None
) -> tuple[list[tuple[Tensor, Tensor]], float]:
    """Truncate batches of SVDs to one common rank.

    Args:
        parts: batches (u, s, vh).
        weights: how often each batch counts.
        rank: the largest rank.
        error2: the squared error that all may lose together; the smallest rank within it is taken.

    Returns:
        for each batch (u, s vh) at that rank, and the squared error.
    """
    width = max(s.shape[-1] for _, s, _ in parts)
    energy = torch.zeros(width, dtype=torch.float64, device=parts[0][1].device)
    for (_, s, _), weight in zip(parts, weights, strict=True):
        energy += weight * s.detach().to(torch.float64).square().sum(0)
    r = width if error2 is None else rank_for_tail(energy, error2)
    r = r if rank is None else min(r, rank)
    return [(u[..., :r], s[..., :r, None] * vh[..., :r, :]) for u, s, vh in parts], float(energy[r:].sum())
