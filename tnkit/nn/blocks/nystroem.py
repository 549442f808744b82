"""The MLP of a block with fewer neurons: y = W h + b is read off the neurons that are kept, by least squares.

With C = Σ h hᵀ of what comes to the second layer, neurons J are kept by their ridge leverage scores, and
W ← W C_{:J} C_JJ⁺ (Nyström). Where there is a bias, moments are centred and the bias takes up the means.

References:
    Lin et al., MoDeGPT, arXiv 2408.09632, algorithm 1; Musco and Musco, arXiv 1605.07583 (leverage scores).
"""

from __future__ import annotations

from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from tnkit.nn.stats import InputStats

__all__ = ["Kept", "read_off", "select_neurons"]

#: Eigenvalues below this share of the largest are not inverted.
FLOOR = 1e-10
#: Up to so many neurons, pivots of a QR factorisation are tried as well; its cost grows with their third power.
PIVOTED = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What is left of a layer's inputs, and the layer that reads everything off them.

    Attributes:
        index: (k,) sorted positions.
        weight: (m, k) float64.
        shift: (m,) that is added to the bias; zero where moments are not centred.
        lost2: squared error of the output over the calibration data.
        energy: of the output.
    """

    index: Tensor
    weight: Tensor
    shift: Tensor
    lost2: float
    energy: float

    @property
    def rel_error(self) -> float:
        """Relative error of the output."""
        return (self.lost2 / self.energy) ** 0.5 if self.energy > 0 else 0.0


def select_neurons(weight: Tensor, stats: InputStats, count: int, *, centred: bool) -> Kept:
    """Keep `count` inputs of a layer.

    Args:
        weight: (m, n) of the layer that takes the neurons.
        stats: moments of its inputs, one group.
        count: 1 … n.
        centred: whether the layer has a bias that may change.

    Returns:
        The best of the sets that leverage scores, energies, output energies and pivots choose, each read off by least
        squares.
    """
    w = weight.detach().to(torch.float64)
    gram = (stats.centred() if centred else stats).gram[0].to(w)
    diagonal = gram.diagonal()
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    scores = [diagonal, diagonal * w.square().sum(dim=0), _leverage(values, vectors, count)]
    chosen = [s.topk(count).indices.sort()[0] for s in scores]
    if len(gram) <= PIVOTED:
        chosen.append(_pivots(values, vectors, count))
    seen = w @ gram
    best = max(chosen, key=lambda index: _explained(seen, gram, index))
    return read_off(w, stats, best, centred=centred)


def _explained(seen: Tensor, gram: Tensor, index: Tensor) -> float:
    """What of ‖W C^½‖² the inputs at `index` explain, W C being `seen`; to about `FLOOR`."""
    inner = gram[index][:, index]
    ridge = FLOOR * inner.diagonal().mean().clamp_min(1e-300)
    factor = torch.linalg.cholesky_ex(inner + ridge * torch.eye(len(inner)).to(inner))[0]
    part: Tensor = torch.linalg.solve_triangular(factor, seen[:, index].mT, upper=False)
    return float(part.square().sum()) if bool(part.isfinite().all()) else -1.0


def read_off(weight: Tensor, stats: InputStats, index: Tensor, *, centred: bool) -> Kept:
    """The layer that does best with the inputs at `index`; the others are not there."""
    w = weight.detach().to(torch.float64)
    gram = (stats.centred() if centred else stats).gram[0].to(w)
    cross, inner = gram[:, index], gram[index][:, index]
    known, vectors = torch.linalg.eigh(inner)
    inverse = torch.where(known > FLOOR * known[-1], 1.0 / known.clamp_min(1e-300), 0.0)
    new = w @ cross @ (vectors * inverse) @ vectors.mT
    unseen = diagonal_is_zero(gram, index)
    new[:, unseen] = w[:, index[unseen]]  # what calibration did not see stays as it was
    out = w @ gram
    lost2 = float((out * w).sum() - 2 * (out[:, index] * new).sum() + ((new @ inner) * new).sum())
    mean = stats.mean()[0].to(w)
    shift = w @ mean - new @ mean[index] if centred else w.new_zeros(w.shape[0])
    whole = float((w @ stats.gram[0].to(w) * w).sum())
    return Kept(index, new, shift, max(lost2, 0.0), whole)


def diagonal_is_zero(gram: Tensor, index: Tensor) -> Tensor:
    """Which of the inputs were never seen."""
    return gram.diagonal()[index] <= 0


def _pivots(values: Tensor, vectors: Tensor, count: int) -> Tensor:
    """The inputs that a QR factorisation with column pivoting takes first: each the least explained by those before."""
    root = values.sqrt()[:, None] * vectors.mT  # C = rootᵀ root
    order = scipy.linalg.qr(root.cpu().numpy(), mode="r", pivoting=True)[1]
    return torch.from_numpy(order[:count]).to(values.device, torch.int64).sort()[0]


def _leverage(values: Tensor, vectors: Tensor, count: int) -> Tensor:
    """diag(C (C + λ)⁻¹), with λ such that they sum to about `count`."""
    low, high = 0.0, float(values.sum()) + 1e-300
    for _ in range(60):
        ridge = (low + high) / 2 if low else high / 1e3
        if float((values / (values + ridge)).sum()) > count:
            low = ridge
        else:
            high = ridge
        if high - low < 1e-3 * high:
            break
    scores: Tensor = (vectors.square() * (values / (values + high))).sum(dim=1)
    return scores
