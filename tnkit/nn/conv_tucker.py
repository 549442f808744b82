"""Tucker-2 of a convolution kernel in the metric of its input channels, by higher-order orthogonal iteration.

K[o, i, k] ≈ Σ_{a,c} U_o[o, a] G[a, c, k] U_i[c, i]. The metric weighs the input mode; the fit runs in its orthonormal
coordinates, so that the Gram matrix is never inverted.

References:
    Kim et al., Compression of deep convolutional neural networks (2016), arXiv 1511.06530.
    De Lathauwer et al., On the best rank-1 and rank-(R1, …, RN) approximation (2000), doi:10.1137/S0895479898346995.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tnkit.nn.weighted import weighted_basis

__all__ = ["ConvTucker"]

#: Directions that the calibration data does not see get this share of the largest singular value as their weight.
UNSEEN = 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class ConvTucker:
    """A kernel in orthonormal coordinates of its input metric: K[o, i, k] = Σ_p coords[o, p, k] · inputs[p, i].

    Attributes:
        coords: (o, p, k), the weighted kernel; its squared norm is the output energy.
        inputs: (p, i), from coordinates back to channels.
    """

    coords: Tensor
    inputs: Tensor

    @staticmethod
    def of(kernel: Tensor, gram: Tensor | None = None) -> ConvTucker:
        """Analyse a kernel (o, i, k) with the Gram matrix (i, i) of its input channels (None: unweighted)."""
        o, i, k = kernel.shape
        basis = weighted_basis(kernel.permute(0, 2, 1).reshape(o * k, i), gram)
        s = basis.s.clamp_min(UNSEEN * float(basis.s[0])) if float(basis.s[0]) > 0 else torch.ones_like(basis.s)
        inputs = (basis.u.mT @ basis.weight) / s[:, None]
        return ConvTucker((basis.u * s).reshape(o, k, -1).permute(0, 2, 1), inputs)

    def outputs(self) -> Tensor:
        """(o, o) singular vectors of the output mode, largest first (HOSVD)."""
        return leading(self.coords.flatten(1), self.coords.shape[0])

    def errors(self) -> Tensor:
        """(o, p) squared weighted error of the truncated HOSVD at every pair of ranks (row a − 1, column c − 1)."""
        energy = torch.einsum("oa,opk->apk", self.outputs(), self.coords).square().sum(dim=2)
        kept = energy.cumsum(dim=0).cumsum(dim=1)
        return (energy.sum() - kept).clamp_min(0)

    def factors(self, rank: tuple[int, int], *, max_steps: int = 8, tol: float = 1e-6) -> tuple[Tensor, Tensor, Tensor]:
        """Core (R_o, R_i, k), output factor (o, R_o) and input factor (R_i, i) of the best rank pair that HOOI finds.

        Args:
            rank: (R_o, R_i).
            max_steps: sweeps over both modes.
            tol: stop when the kept energy grows by less than this share.
        """
        r_out, r_in = rank
        o, p, _ = self.coords.shape
        u = self.outputs()[:, :r_out]
        v = torch.eye(p, dtype=u.dtype, device=u.device)[:, :r_in]
        kept = -1.0
        for _ in range(max_steps if r_out < o or r_in < p else 0):
            v = leading(torch.einsum("oa,opk->pak", u, self.coords).flatten(1), r_in)
            half = torch.einsum("opk,pc->ock", self.coords, v)
            u = leading(half.flatten(1), r_out)
            now = float(torch.einsum("oa,ock->ack", u, half).square().sum())
            if now - kept <= tol * now:
                break
            kept = now
        core = torch.einsum("oa,opk,pc->ack", u, self.coords, v)
        return core, u, v.mT @ self.inputs


def leading(unfolding: Tensor, rank: int) -> Tensor:
    """The `rank` leading left singular vectors of an unfolding (n, rest), shape (n, rank)."""
    if unfolding.shape[0] <= unfolding.shape[1]:
        vectors: Tensor = torch.linalg.eigh(unfolding @ unfolding.mT)[1].flip(-1)
    else:
        vectors = torch.linalg.svd(unfolding, full_matrices=rank > unfolding.shape[1])[0]
    return vectors[:, :rank]
