"""What a split is asked for and what it gives; and the last steps that all drivers share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tnkit.linalg.lstsq import orthonormal
from tnkit.linalg.products import apply_rows, project, residual_energy
from tnkit.linalg.truncation import rank_for_tail, tails

__all__ = ["Cut", "Split", "certify", "finish", "gram_noise2", "left_from_right", "residual_noise2", "rounding2"]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A matrix cut in two: a ≈ basis @ rest (side "left") or rest @ basisᴴ (side "right").

    Attributes:
        basis: orthonormal columns: (m, r), or (n, r) for side "right".
        rest: basisᴴ a, (r, n); or a basis, (m, r), for side "right".
        s2: squared singular values, descending, float64, as far as they are known; None if they are not. Where there
            are fewer than min(m, n) of them (randomised) they are Ritz values: each is a lower bound.
        discarded2: ‖a‖² − ‖rest‖², the squared Frobenius error; never negative.
        certain: False if `discarded2` is below what the kernel resolves in this dtype, so that the number is noise
            (the error is then of the order of rounding, or of √(machine eps) where the driver "gram" was asked for).
        driver: the kernel that made it.
        side: "left" or "right".
    """

    basis: Tensor
    rest: Tensor
    s2: Tensor | None
    discarded2: float
    certain: bool
    driver: str
    side: str = "left"

    @property
    def rank(self) -> int:
        """The number of columns of the basis."""
        return self.basis.shape[1]

    def product(self) -> Tensor:
        """The matrix that the split stands for."""
        return self.basis @ self.rest if self.side == "left" else self.rest @ self.basis.mH


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """What a driver is asked for: the smallest rank with discarded energy <= tail2, at most max_rank.

    Attributes:
        max_rank: from 1 to min(m, n).
        tail2: None for exactly max_rank.
        norm2: ‖a‖², float64.
        gen: random numbers.
    """

    max_rank: int
    tail2: float | None
    norm2: float
    gen: torch.Generator

    def rank(self, s2: Tensor, noise2: float = 0.0, least2: float = 0.0) -> int:
        """The rank for these squared singular values.

        Args:
            s2: descending.
            noise2: each tail is known up to this; the rank is on the safe side of it.
            least2: what rounding leaves anyway; a smaller tolerance is taken as this.
        """
        if self.tail2 is None:
            return self.max_rank
        return min(self.max_rank, rank_for_tail(s2, max(self.tail2, least2) - noise2))


def rounding2(dtype: torch.dtype, size: int, norm2: float) -> float:
    """The energy that rounding alone leaves in `size` singular values of an exact kernel; less cannot be asked for."""
    return size * (2 * torch.finfo(dtype).eps) ** 2 * norm2


def gram_noise2(dtype: torch.dtype, norm2: float, *, precise: bool) -> float:
    """The least error of a tail that is read from a Gram matrix; a hundred times this is needed to trust it to 1 %."""
    exact = precise or dtype in (torch.float64, torch.complex128)
    return (4 * torch.finfo(torch.float64).eps if exact else 2.5e-8) * norm2


def residual_noise2(dtype: torch.dtype, norm2: float) -> float:
    """The energy of the rounding errors in a residual that is formed explicitly."""
    return (4 * torch.finfo(dtype).eps) ** 2 * norm2


def finish(a: Tensor, basis: Tensor, s2: Tensor, cut: Cut, driver: str, *, trust2: float) -> Split:
    """Project, and say what was lost: from the singular values where they tell, else from the residual itself.

    Args:
        a: (m, n).
        basis: (m, r).
        s2: all min(m, n) squared singular values.
        cut: the request.
        driver: its name.
        trust2: tails of `s2` from here on are true to about 1 %.
    """
    r = basis.shape[1]
    rest = project(basis, a)
    if r == min(a.shape):
        return Split(basis, rest, s2, 0.0, True, driver)
    lost = float(tails(s2)[r])
    if lost >= trust2 and lost > 0:
        return Split(basis, rest, s2, lost, True, driver)
    lost = residual_energy(a, basis, rest)
    return Split(basis, rest, s2, lost, _means_something(a, lost, cut.norm2), driver)


def certify(a: Tensor, q: Tensor, b: Tensor, inner: Tensor, norm2: float) -> float:
    """‖a − q b‖² for b = qᴴ a and inner = b bᴴ: by subtraction where that tells, else from the residual itself.

    The subtraction is ‖a‖² − 2 tr(b bᴴ) + tr(qᴴ q b bᴴ): a q that is orthonormal to single precision only does not
    spoil it.
    """
    captured = inner.diagonal().real.sum()
    overlap = q.to(inner.dtype)
    lost = norm2 - float(2 * captured - ((overlap.mH @ overlap) * inner.mT).sum().real)
    if lost >= 2000 * torch.finfo(a.dtype).eps * norm2:
        return lost
    return residual_energy(a, q, b)


def _means_something(a: Tensor, lost: float, norm2: float) -> bool:
    """Whether a residual is above its own rounding; that nothing is lost of nothing is certain too."""
    return lost >= 64 * residual_noise2(a.dtype, norm2)


def left_from_right(a: Tensor, right: Tensor) -> Tensor:
    """An orthonormal basis (m, r) of the range of a @ right, for orthonormal right (n, r).

    Dividing by singular values would lose orthogonality for the small ones, so it is orthonormalised instead.
    """
    return orthonormal(apply_rows(a, right.mH.resolve_conj()))
