"""Split a matrix into an orthonormal basis and the rest, by the cheapest kernel that can answer what is asked."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tnkit.errors import DataError, DTypeError, OptionError, RankError, ShapeError
from tnkit.linalg.cut import Cut, Split, gram_noise2, rounding2
from tnkit.linalg.differentiable import with_gradient
from tnkit.linalg.products import energy
from tnkit.linalg.split_gram import gram_eigen
from tnkit.linalg.split_qr import qr_split
from tnkit.linalg.split_randomised import oversampling, try_randomised
from tnkit.linalg.split_svd import safe_svd
from tnkit.linalg.tsqr import triangle
from tnkit.registry import SPLIT_DRIVERS
from tnkit.rng import RngLike, generator

__all__ = ["Spectrum", "choose_driver", "spectrum", "split", "split_flops"]

_NARROW = 48  # shorter sides are never sketched
_LAUNCH = 1e8  # flops in the time that the small steps of a sketch take
_READ = 25  # flops in the time in which one number is read from memory
_SMALL = 80_000  # entries up to which an exact kernel takes no longer than a sketch has overhead


def split(
    a: Tensor,
    *,
    max_rank: int | None = None,
    tail2: float | None = None,
    norm2: float | None = None,
    side: str = "left",
    driver: str = "auto",
    rng: RngLike = None,
) -> Split:
    """Cut a matrix in two: a ≈ basis @ rest, with the smallest rank that the tolerance allows.

    Args:
        a: (m, n), real or complex, any strides (a view of a tensor is not copied). It is not changed.
        max_rank: the rank; with `tail2` an upper limit of it (default: min(m, n)).
        tail2: the squared Frobenius error that is allowed. If `max_rank` does not admit it, `discarded2` says so.
        norm2: ‖a‖² where it is known already (saves a read), as exactly as `energy` gives it.
        side: "left" gives basis (m, r) and rest (r, n); "right" gives basis (n, r) and rest (m, r), a ≈ rest basisᴴ.
        driver: a name in `registry.SPLIT_DRIVERS`, or "auto" (see `choose_driver`).
        rng: for the randomised driver.

    Returns:
        a `Split`. The rank is at least 1. Both parts are differentiable in `a`, also at equal singular values.

    Raises:
        ShapeError: not 2-D, or empty.
        DTypeError: not float32, float64, complex64 or complex128.
        RankError: `max_rank` below 1.
        DataError: NaN or infinite entries.
        OptionError: a negative `tail2`, or an unknown side.
        UnknownNameError: an unknown driver.

    Cost:
        see the drivers; "auto" takes the least by count of flops.

    Example:
        >>> import torch
        >>> a = torch.outer(torch.arange(1.0, 4.0), torch.ones(5))
        >>> part = split(a, tail2=1e-6)
        >>> part.rank, torch.allclose(part.product(), a)
        (1, True)
    """
    if a.ndim != 2 or a.numel() == 0:
        raise ShapeError(f"split needs a matrix (m, n) with entries; seen shape {tuple(a.shape)}.")
    if a.dtype not in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        raise DTypeError(f"split computes in float32, float64, complex64 or complex128; seen {a.dtype}. Convert first.")
    if max_rank is not None and max_rank < 1:
        raise RankError(f"split: max_rank={max_rank} is not a rank. Give 1 or more, or None for no limit.")
    if tail2 is not None and not tail2 >= 0:
        raise OptionError(f"split: tail2={tail2} is not an energy. Give 0 or more, or None.")
    if side not in ("left", "right"):
        raise OptionError(f"split: side={side!r} is unknown. Give 'left' or 'right'.")
    run = _auto if driver == "auto" else SPLIT_DRIVERS.get(driver)
    view = a.mT if side == "right" else a
    plain = view.conj() if view.is_conj() else view  # the data as they lie; a lazy conjugate would be copied
    with torch.no_grad():
        energy2 = energy(plain) if norm2 is None else float(norm2)
    if not math.isfinite(energy2):
        raise DataError(f"split: the squared norm is {energy2}; the matrix has NaN or infinite entries, or overflows.")
    rank = min(*a.shape, max_rank or min(a.shape))
    cut = Cut(rank, None if tail2 is None else float(tail2), energy2, generator(rng, a.device))

    def kernel(matrix: Tensor) -> Split:
        with torch.no_grad():
            matrix = matrix.detach()
            found: Split = run(matrix, cut) if cut.norm2 > 0 else _nothing(matrix, cut)
            return found

    found = with_gradient(plain, kernel) if plain.requires_grad and torch.is_grad_enabled() else kernel(plain)
    conjugated = plain is not view
    basis = found.basis.conj() if conjugated != (side == "right") else found.basis
    rest = found.rest.conj() if conjugated else found.rest
    return replace(
        found, basis=basis.resolve_conj(), rest=(rest.mT if side == "right" else rest).resolve_conj(), side=side
    )


def _nothing(a: Tensor, cut: Cut) -> Split:
    """The split of a zero matrix."""
    m, n = a.shape
    s2 = torch.zeros(min(m, n), dtype=torch.float64, device=a.device)
    rank = cut.max_rank if cut.tail2 is None else 1
    basis = torch.eye(m, rank, dtype=a.dtype, device=a.device)
    return Split(basis, a.new_zeros((rank, n)), s2, 0.0, True, "zero")


def choose_driver(
    shape: tuple[int, int],
    dtype: torch.dtype,
    *,
    max_rank: int | None = None,
    tail2: float | None = None,
    norm2: float = 1.0,
) -> tuple[str, int]:
    """Which exact kernel covers what is asked, and up to how many columns the randomised one is cheaper than it.

    A Gram matrix resolves tails down to about machine epsilon times ‖a‖² (its error is 4 eps ‖a‖²; a hundred times
    that is asked for). A smaller tolerance, or all singular values, take the Q-less QR, or the SVD where the matrix is
    near square. In single precision the Gram matrix is formed in double precision and covers all that single
    precision holds.

    Args:
        shape: (m, n).
        dtype: of the matrix.
        max_rank: as for `split`.
        tail2: as for `split`.
        norm2: ‖a‖²; `tail2` is taken relative to it.

    Returns:
        the exact driver's name, and the number of columns (0: never randomised). "auto" sketches first where that
        number admits the rank, and goes on with the exact driver as soon as the sketch shows that it does not.

    Example:
        >>> choose_driver((800, 12800), torch.float64, max_rank=20)[0]
        'gram'
        >>> choose_driver((800, 12800), torch.float64, max_rank=20)[1] > 28
        True
        >>> choose_driver((800, 12800), torch.float64, tail2=1e-24)[0]
        'qr'
        >>> choose_driver((40, 40), torch.float64)
        ('svd', 0)
    """
    m, n = shape
    short = min(m, n)
    single = dtype in (torch.float32, torch.complex64)
    rank = min(short, max_rank or short)
    covered = single or (tail2 >= 100 * gram_noise2(dtype, norm2, precise=True) if tail2 is not None else rank < short)
    exact = "gram" if covered else "svd" if max(m, n) <= 3 * short else "qr"
    if m * n <= _SMALL or short < _NARROW:
        return exact, 0
    columns = 0
    step = 1 << (short.bit_length() - 1)
    while step:
        if columns + step <= 0.7 * short and _randomised_flops(m, n, columns + step) < _exact_flops(
            exact, m, n, columns + step, single=single
        ):
            columns += step
        step //= 2
    return exact, columns


def split_flops(shape: tuple[int, int], rank: int, *, single: bool = False) -> float:
    """What a split at a known rank takes, in flops of a large product: the cheaper of the Gram matrix and a sketch.

    Fitted to times of both on tall matrices, so it counts reads and slow products too; good to a quarter or so.

    Example:
        >>> split_flops((64_000, 320), 20) < 0.5 * split_flops((64_000, 320), 300)
        True
    """
    m, n = shape
    columns = rank + oversampling(rank)
    exact = _exact_flops("gram", m, n, rank, single=single)
    if min(m, n) < _NARROW or columns > 0.7 * min(m, n):
        return exact
    return min(exact, _randomised_flops(m, n, columns))


def _exact_flops(driver: str, m: int, n: int, rank: int, *, single: bool) -> float:
    """Flops, weighted by how far from a product's rate each part runs."""
    short = min(m, n)
    if driver == "gram":
        product = (100.0 + 2.0 * short if short <= 96 else 50.0 + 1.4 * short) * (1.5 if single else 1.0)
        return product * m * n + 12.0 * short**3 + 2.5 * m * n * rank
    return 12.0 * m * n * short + 60.0 * short**3 + 2.0 * m * n * rank


def _randomised_flops(m: int, n: int, k: int) -> float:
    short, long = min(m, n), max(m, n)
    width = min(max(128 * k, 512), long // 6)
    start = min(2.0 * short**2 * width + 12.0 * short**3, 16.0 * short * width * k)
    if width < 8 * k:
        start = 4.0 * m * n * k
    passes = 1 if width >= 64 * k else 3  # a poorer sketch takes a power step
    return _LAUNCH + start + 4.0 * _READ * m * n + passes * (3.0 * m * n * k + 8.0 * k * k * long) + 40.0 * k**3


def _auto(a: Tensor, cut: Cut) -> Split:
    exact, columns = choose_driver(
        (a.shape[0], a.shape[1]), a.dtype, max_rank=cut.max_rank, tail2=cut.tail2, norm2=cut.norm2
    )
    if columns > 0:
        found = try_randomised(a, cut, limit=columns)
        if found is not None:
            return found
    split_exactly = SPLIT_DRIVERS.get(exact)
    found = split_exactly(a, cut)
    assert isinstance(found, Split)
    unresolved = 100 * gram_noise2(a.dtype, cut.norm2, precise=True)
    double = a.dtype in (torch.float64, torch.complex128)
    if exact == "gram" and double and cut.tail2 is None and found.discarded2 < unresolved:
        wide = cut.max_rank + oversampling(cut.max_rank) <= min(a.shape) // 4
        better = try_randomised(a, cut, limit=min(a.shape) // 4) if wide else None
        found = better or qr_split(a, cut)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """All singular values of a matrix, and the singular vectors of its smaller side.

    Attributes:
        s2: (k,) squared singular values, descending, float64, k = min(m, n).
        vectors: (k, k) orthonormal; left singular vectors if `side` is "left", right ones if "right".
        side: "left" if m <= n, else "right".
        noise2: tails of `s2` are true up to this.
        driver: the kernel: "gram" or "qr".
    """

    s2: Tensor
    vectors: Tensor
    side: str
    noise2: float
    driver: str


def spectrum(a: Tensor, *, tail2: float | None = None, norm2: float | None = None) -> Spectrum:
    """All singular values, without a projection: for choosing the ranks of several unfoldings together.

    Args:
        a: (m, n), any strides.
        tail2: the smallest tail that matters. A Gram matrix is used where it resolves that, else a Q-less QR.
        norm2: ‖a‖² where it is known.

    Returns:
        a `Spectrum`.

    Cost:
        min(m, n)² max(m, n) to twice that for "gram", about six times that for "qr".

    Example:
        >>> import torch
        >>> spectrum(torch.diag(torch.tensor([3.0, 2.0]))).s2.round().tolist()
        [9.0, 4.0]
    """
    if a.ndim != 2 or a.numel() == 0:
        raise ShapeError(f"spectrum needs a matrix (m, n) with entries; seen shape {tuple(a.shape)}.")
    with torch.no_grad():
        a = a.detach()
        m, n = a.shape
        side = "left" if m <= n else "right"
        flat = a if m <= n else a.mT
        flipped = flat.is_conj() != (side == "right")
        flat = flat.conj() if flat.is_conj() else flat
        whole = energy(flat) if norm2 is None else float(norm2)
        single = a.dtype in (torch.float32, torch.complex64)
        if single or (tail2 is not None and tail2 >= 100 * gram_noise2(a.dtype, whole, precise=True)):
            rough = tail2 is not None and tail2 >= 100 * gram_noise2(a.dtype, whole, precise=False)
            s2, vectors, noise2 = gram_eigen(flat, whole, precise=not rough)
            if tail2 is not None and single and rough and tail2 < 100 * noise2:
                s2, vectors, noise2 = gram_eigen(flat, whole, precise=True)
            vectors, driver = vectors.to(a.dtype), "gram"
        else:
            vectors, s, _ = safe_svd(triangle(flat.mT).mT)
            s2, driver, noise2 = s.to(torch.float64).square(), "qr", rounding2(a.dtype, min(m, n), whole)
        vectors = (vectors.conj() if flipped else vectors).resolve_conj().contiguous()
    return Spectrum(s2, vectors, side, noise2, driver)
