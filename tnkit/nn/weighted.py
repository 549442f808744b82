"""One primitive for every weighted low-rank fit: truncation in a metric given by calibration data.

For y = Wx the best rank-r answer in the metric of the inputs minimises ‖F^½ (W − Ŵ) G^½‖_F with G = XᵀX and F a weight
for each row. With M = F^½ W G^½ = U S Vᵀ it is Ŵ = F^-½ U_r U_rᵀ F^½ W, and the error is Σ_{i>r} S_i² exactly.
G is never inverted: dead inputs and few samples are no special case.

References:
    Wang et al., SVD-LLM (arXiv 2403.07378); Hsu et al., FWSVD (arXiv 2207.00112); Yuan et al., ASVD (arXiv 2312.05821).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tnkit.errors import DataError, DTypeError, RankError, ShapeError

__all__ = ["RowMetric", "WeightedBasis", "weighted_basis", "weighted_lowrank"]

#: Row weights below this share of the largest are raised to it, so that F^-½ stays bounded: for a vector, a matrix.
ROW_FLOOR = 1e-6
MATRIX_FLOOR = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class WeightedBasis:
    """The left singular vectors of F^½ W G^½, completed to a basis of the range of F^½ W.

    Attributes:
        u: (m, k) orthonormal columns in float64, k = min(m, n).
        s: (k,) singular values of F^½ W G^½, descending, float64; 0 for directions that the metric does not see.
        rows: F^½ and F^-½.
        weight: (m, n) W in float64.
    """

    u: Tensor
    s: Tensor
    rows: RowMetric
    weight: Tensor

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """B = F^-½ U_r (m, r) and A = U_rᵀ F^½ W (r, n), float64."""
        u = self.u[:, :rank]
        return self.rows.undo(u), u.mT @ self.rows.apply(self.weight)

    def plain_energy(self) -> Tensor:
        """(k,) what each direction holds of ‖F^½ W‖², whatever the inputs are."""
        return (self.u.mT @ self.rows.apply(self.weight)).square().sum(dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class RowMetric:
    """F^½ and its inverse, as diagonals (m,) or matrices (m, m); None for the identity.

    Attributes:
        root: F^½.
        inverse: F^-½.
    """

    root: Tensor | None = None
    inverse: Tensor | None = None

    @staticmethod
    def of(row_weight: Tensor | None, like: Tensor) -> RowMetric:
        """From F, a vector of weights or a positive semidefinite matrix, in dtype and device of `like`.

        Raises:
            DataError: a vector with negative weights.
        """
        if row_weight is None:
            return RowMetric()
        f = row_weight.detach().to(like)
        if f.ndim == 1:
            if bool((f < 0).any()):
                raise DataError(
                    "weighted low rank: row_weight holds negative values; Fisher information is never negative."
                )
            root = _floored(f, ROW_FLOOR).sqrt()
            return RowMetric(root, 1.0 / root)
        energy, vectors = torch.linalg.eigh(f)
        root = _floored(energy, MATRIX_FLOOR).sqrt()
        return RowMetric((vectors * root) @ vectors.mT, (vectors / root) @ vectors.mT)

    def apply(self, x: Tensor) -> Tensor:
        """F^½ x for x of shape (m, …)."""
        return _times(self.root, x)

    def undo(self, x: Tensor) -> Tensor:
        """F^-½ x for x of shape (m, …)."""
        return _times(self.inverse, x)


def _times(root: Tensor | None, x: Tensor) -> Tensor:
    if root is None:
        return x
    return (root[:, None] * x.flatten(1) if root.ndim == 1 else root @ x.flatten(1)).reshape(x.shape)


def _floored(f: Tensor, share: float) -> Tensor:
    top = f.max()
    return torch.ones_like(f) if float(top) <= 0.0 else f.clamp_min(share * float(top))


def weighted_basis(weight: Tensor, gram: Tensor | None = None, row_weight: Tensor | None = None) -> WeightedBasis:
    """Analyse a matrix in the metric of its inputs and rows; every truncation of it is then a slice.

    Args:
        weight: (m, n) matrix W, any real dtype.
        gram: (n, n) G = XᵀX of the inputs, or (n,) its diagonal; None for the identity.
        row_weight: (m,) non-negative weights F of the rows, or (m, m) a positive semidefinite F; None for ones.

    Raises:
        ShapeError: shapes that do not fit together.
        DataError: NaN or infinite values, or negative row weights.
        DTypeError: a dtype that is not real floating point.

    Cost:
        O(mn·min(m, n)) and an eigendecomposition of G where m > n; float64 throughout. Without a metric a weight of a
        shorter type is analysed by its Gram matrix, which in float64 holds all that the weight says.
    """
    w = _checked(weight, gram, row_weight)
    rows = RowMetric.of(row_weight, w)
    scaled = rows.apply(w)  # F^½ W, (m, n)
    if gram is None and weight.dtype == torch.float64:
        u, s, _ = torch.linalg.svd(scaled, full_matrices=False)
        return WeightedBasis(u, s, rows, w)
    u, s = _directions(scaled) if gram is None else _seen_directions(scaled, gram.detach().to(w))
    return WeightedBasis(*_completed(u, s, scaled), rows, w)


def weighted_lowrank(
    weight: Tensor, rank: int, gram: Tensor | None = None, row_weight: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The best rank-`rank` factors of a matrix in the metric of its inputs: W ≈ B A.

    At rank min(m, n) the product is W itself, whatever the metric, also where G is singular.

    Args:
        weight: (m, n) matrix W.
        rank: 1 … min(m, n).
        gram: (n, n) XᵀX of the inputs, (n,) its diagonal, or None for plain SVD.
        row_weight: F, (m,) weights of the rows (Fisher information) or (m, m) for a full metric, or None.

    Returns:
        (B, A, spectrum): B (m, rank) and A (rank, n) in the dtype of `weight`; spectrum (min(m, n),) in float64.
        ‖F^½(W − BA)G^½‖²_F = Σ_{i >= rank} spectrum_i².

    Raises:
        RankError: `rank` is not in 1 … min(m, n).
        ShapeError: shapes that do not fit together.
        DataError: NaN or infinite values.

    Example:
        >>> import torch
        >>> from tnkit.nn.weighted import weighted_lowrank
        >>> w = torch.arange(12.0).reshape(3, 4)
        >>> b, a, s = weighted_lowrank(w, 2, gram=torch.diag(torch.tensor([1.0, 2.0, 0.0, 1.0])))
        >>> b.shape, a.shape, bool(torch.allclose(b @ a, w, atol=1e-4))
        (torch.Size([3, 2]), torch.Size([2, 4]), True)
    """
    if weight.ndim == 2 and not (isinstance(rank, int) and 1 <= rank <= min(weight.shape)):
        raise RankError(
            f"weighted_lowrank: rank={rank!r} for a {tuple(weight.shape)} matrix. "
            f"Use an int of 1 … {min(weight.shape)} (the largest is exact)."
        )
    basis = weighted_basis(weight, gram, row_weight)
    left, right = basis.factors(rank)
    return left.to(weight.dtype), right.to(weight.dtype), basis.s


def _checked(weight: Tensor, gram: Tensor | None, row_weight: Tensor | None) -> Tensor:
    if weight.ndim != 2 or weight.numel() == 0:
        raise ShapeError(
            f"weighted low rank takes a non-empty (m, n) matrix; this one has shape {tuple(weight.shape)}."
        )
    if not weight.dtype.is_floating_point:
        raise DTypeError(f"weighted low rank takes real floating-point weights; these are {weight.dtype}.")
    m, n = weight.shape
    if gram is not None and tuple(gram.shape) not in ((n, n), (n,)):
        raise ShapeError(
            f"gram of shape {tuple(gram.shape)} does not fit {n} inputs. Give ({n}, {n}), or ({n},) for a diagonal."
        )
    if row_weight is not None and tuple(row_weight.shape) not in ((m,), (m, m)):
        raise ShapeError(
            f"row_weight of shape {tuple(row_weight.shape)} does not fit {m} rows. Give ({m},) or ({m}, {m})."
        )
    for name, value in (("weight", weight), ("gram", gram), ("row_weight", row_weight)):
        if value is not None and not bool(torch.isfinite(value).all()):
            raise DataError(f"weighted low rank: {name} holds NaN or infinite values. Repair them before compressing.")
    return weight.detach().to(torch.float64)


def _directions(scaled: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors and values that stand above rounding, and zeros for the others."""
    m, n = scaled.shape
    if m <= n:
        energy, vectors = torch.linalg.eigh(scaled @ scaled.mT)
        u, s = vectors.flip(-1), energy.flip(-1).clamp_min(0).sqrt()
    else:
        u, s = _by_gram(scaled)
    floor = s[0] * (torch.finfo(s.dtype).eps * max(m, n)) ** 0.5
    return u, torch.where(s > floor, s, 0.0)


def _seen_directions(scaled: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors and values of scaled · G^½ that stand above rounding, and zeros for the others."""
    m, n = scaled.shape
    if gram.ndim == 1 and 4 * m > n:
        u, s, _ = torch.linalg.svd(scaled * gram.clamp_min(0).sqrt(), full_matrices=False)
        floor = s[0] * torch.finfo(s.dtype).eps * max(m, n)
    elif m <= n:
        seen = scaled * gram.clamp_min(0) if gram.ndim == 1 else scaled @ gram
        energy, vectors = torch.linalg.eigh(seen @ scaled.mT)
        u, s = vectors.flip(-1), energy.flip(-1).clamp_min(0).sqrt()
        floor = s[0] * (torch.finfo(s.dtype).eps * max(m, n)) ** 0.5
    else:
        energy, vectors = torch.linalg.eigh(gram)
        u, s = _left_vectors((scaled @ vectors) * energy.clamp_min(0).sqrt())
        floor = s[0] * (torch.finfo(s.dtype).eps * max(m, n)) ** 0.5
    return u, torch.where(s > floor, s, 0.0)


def _left_vectors(x: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors and values of a tall matrix; of a very tall one by its Gram matrix, down to √eps."""
    if x.shape[0] < 8 * x.shape[1]:
        u, s, _ = torch.linalg.svd(x, full_matrices=False)
        return u, s
    return _by_gram(x)


def _by_gram(x: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors and values of a tall matrix, down to √eps of the largest."""
    energy, v = torch.linalg.eigh(x.mT @ x)
    s = energy.flip(-1).clamp_min(0).sqrt()
    return torch.linalg.qr(x @ v.flip(-1))[0], s


def _completed(u: Tensor, s: Tensor, scaled: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the directions that the metric does not see by those of what is left of F^½ W, largest first."""
    seen = int((s > 0).sum())
    if seen == s.numel():
        return u, s
    seen_u = u[:, :seen]
    rest = scaled - seen_u @ (seen_u.mT @ scaled)
    others = torch.linalg.svd(rest, full_matrices=False)[0][:, : s.numel() - seen]
    return torch.linalg.qr(torch.cat([seen_u, others], dim=1))[0], s
