"""Every split driver: orthonormal bases, true certificates, tolerances kept, in every dtype and layout."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tnkit.errors import DataError, DTypeError, OptionError, RankError, ShapeError, UnknownNameError
from tnkit.linalg import choose_driver, spectrum, split
from tnkit.registry import SPLIT_DRIVERS

DRIVERS = ("auto", *SPLIT_DRIVERS.names())
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def wide(x: Tensor) -> Tensor:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def floor(dtype: torch.dtype) -> float:
    """Relative error that rounding may leave."""
    return 100 * torch.finfo(dtype).eps


def gaussian(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def with_values(s: Tensor, m: int, n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """A matrix with these singular values."""
    work = torch.complex128 if dtype.is_complex else torch.float64
    k = s.shape[0]
    u = torch.linalg.qr(gaussian(m, k, dtype=work, seed=seed)).Q
    v = torch.linalg.qr(gaussian(n, k, dtype=work, seed=seed + 1)).Q
    return ((u * s.to(work)) @ v.mH).to(dtype)


def check(a: Tensor, **options: object) -> tuple[object, float, float]:
    """What holds for every split; gives it with its true relative error and the best one at that rank."""
    before = a.clone()
    part = split(a, rng=0, **options)
    assert torch.equal(a, before)
    assert part.basis.dtype == part.rest.dtype == a.dtype
    assert not part.basis.is_conj()
    assert not part.rest.is_conj()
    r, (m, n) = part.rank, a.shape
    right = options.get("side") == "right"
    assert part.basis.shape == ((n, r) if right else (m, r))
    assert part.rest.shape == ((m, r) if right else (r, n))
    b = wide(part.basis)
    assert (b.mH @ b - torch.eye(r)).norm() <= floor(a.dtype) * math.sqrt(r)
    x = wide(a)
    norm = float(x.norm())
    projected = x @ b if right else b.mH @ x
    assert (projected - wide(part.rest)).norm() <= floor(a.dtype) * norm
    true = float((x - wide(part.product())).norm())
    best = float(torch.linalg.svdvals(x)[r:].norm())
    reported = math.sqrt(part.discarded2)
    assert part.discarded2 >= 0
    if part.certain:
        assert abs(reported - true) <= 0.01 * true + floor(a.dtype) * norm
    else:
        assert true <= (1e-6 if part.driver == "gram" else 1.0) * norm
        assert abs(reported - true) <= floor(a.dtype) * norm
    if part.s2 is not None:
        assert part.s2.dtype == torch.float64
        assert (part.s2.diff() <= 0).all()
    return part, true / norm if norm else true, best / norm if norm else best


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shape", [(30, 400), (400, 30), (60, 60)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("driver", DRIVERS)
def test_signal_in_noise(driver: str, dtype: torch.dtype, shape: tuple[int, int], side: str) -> None:
    s = torch.full((min(shape),), 1e-3, dtype=torch.float64)
    s[:5] = torch.tensor([3.0, 2.0, 2.0, 1.0, 0.5])
    a = with_values(s, *shape, dtype=dtype)
    norm2 = float((s**2).sum())
    part, true, best = check(a, max_rank=5, driver=driver, side=side)
    assert part.rank == 5
    assert part.certain
    assert true <= 1.01 * best
    eps = 1.05 * best
    part, true, _ = check(a, tail2=eps**2 * norm2, norm2=norm2, driver=driver, side=side)
    assert part.rank == 5
    assert true <= eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("shape", [(20, 3000), (3000, 20), (50, 50), (64, 4000)])
def test_rank_deficient(driver: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    a = with_values(torch.tensor([3.0, 1.0, 1.0, 0.01]), *shape, dtype=dtype)
    part, true, _ = check(a, max_rank=4, driver=driver)
    assert part.rank == 4
    assert true <= (1e-7 if driver == "gram" and dtype in (torch.float64, torch.complex128) else floor(dtype))
    part, true, _ = check(a, max_rank=7, driver=driver)
    assert part.rank == 7  # asked for, so given, and orthonormal
    if driver != "gram" or dtype in (torch.float32, torch.complex64):
        part, true, _ = check(a, tail2=0.0, driver=driver)
        assert part.rank == 4
        assert true <= floor(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (3, 5), (5, 3), (7, 7), (40, 900)])
def test_full_rank_is_exact(driver: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    a = gaussian(*shape, dtype=dtype)
    part, true, _ = check(a, driver=driver)
    assert part.rank == min(shape)
    assert true <= floor(dtype)
    _, true, _ = check(a, tail2=0.0, driver=driver, side="right")
    assert true <= floor(dtype)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_matrix(driver: str, dtype: torch.dtype) -> None:
    a = torch.zeros(4, 6, dtype=dtype)
    part, _, _ = check(a, tail2=0.0, driver=driver)
    assert (part.rank, part.discarded2, part.certain) == (1, 0.0, True)
    assert check(a, max_rank=3, driver=driver, side="right")[0].rank == 3


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("scale", [1e-3, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scale_does_not_matter(driver: str, scale: float, dtype: torch.dtype) -> None:
    a = with_values(torch.logspace(0, -2, 20), 20, 300, dtype=dtype)
    one = split(a, tail2=1e-3 * float(a.norm() ** 2), driver=driver, rng=0)
    part, true, _ = check(scale * a, tail2=1e-3 * scale**2 * float(a.norm() ** 2), driver=driver)
    assert part.rank == one.rank
    assert true**2 <= 1e-3


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(driver: str, dtype: torch.dtype) -> None:
    x = with_values(torch.logspace(0, -2, 30), 30, 420, dtype=dtype)
    strided = torch.stack([x, -x], dim=-1)[..., 0]
    permuted = x.reshape(30, 20, 21).permute(1, 0, 2)[3]  # rows with a stride of their own
    expanded = x[:, :1].expand(30, 50)
    views = [x.mT, x[:, ::2], x.flip(0), strided, strided.mT, permuted, expanded]
    if dtype.is_complex:
        views += [x.conj(), x.mH, strided.mH]
    for view in views:
        for side in ("left", "right"):
            _, true, best = check(view, max_rank=4, driver=driver, side=side)
            assert true <= 1.01 * best + floor(dtype)


@given(
    m=st.integers(1, 40),
    n=st.integers(1, 40),
    decay=st.floats(0.0, 3.0),
    eps=st.floats(0.0, 1.0),
    cap=st.none() | st.integers(1, 50),
    dtype=st.sampled_from(DTYPES),
    driver=st.sampled_from(DRIVERS),
    side=st.sampled_from(["left", "right"]),
)
def test_tolerance_is_kept(
    m: int, n: int, decay: float, eps: float, cap: int | None, dtype: torch.dtype, driver: str, side: str
) -> None:
    s = torch.arange(1, min(m, n) + 1, dtype=torch.float64) ** -decay
    a = with_values(s, m, n, dtype=dtype, seed=m + 41 * n)
    norm2 = float(wide(a).norm() ** 2)
    part, true, _ = check(a, max_rank=cap, tail2=eps**2 * norm2, driver=driver, side=side)
    assert part.rank <= min(m, n, cap or m)
    if cap is None:
        assert true <= eps * (1 + 1e-6) + floor(dtype)
        assert math.sqrt(part.discarded2 / norm2) <= eps * (1 + 1e-6) + floor(dtype)
    if true > eps * (1 + 1e-6) + floor(dtype):
        assert part.rank == min(m, n, cap or m)


def test_flat_noise_floor_is_not_missed() -> None:
    """A sketch alone misses this by tens of percent."""
    for m, n, decay in [(96, 6000, 0.0), (600, 700, 0.0), (128, 4000, 0.5), (500, 600, 1.0)]:
        s = torch.arange(1, m + 1, dtype=torch.float64) ** -decay
        s[:10] += 1
        _, true, best = check(with_values(s, m, n), max_rank=10, driver="randomised")
        assert true <= 1.01 * best


def test_signal_in_few_columns() -> None:
    """Columns at a regular distance, as a slice of a tensor gives, must not fall into one bucket of the sketch."""
    a = 1e-4 * gaussian(80, 16384)
    a[:, ::2048] += gaussian(80, 8, seed=2)
    _, true, best = check(a, max_rank=8, driver="randomised")
    assert true <= 1.01 * best


@pytest.mark.parametrize("seed", range(8))
def test_signal_in_single_columns(seed: int) -> None:
    """Columns that meet in a sketch hide each other; the check must notice."""
    a = 1e-3 * gaussian(64, 12_000, seed=seed)
    a[:, torch.randperm(12_000, generator=torch.Generator().manual_seed(seed))[:20]] += gaussian(64, 20, seed=seed + 50)
    part = split(a, max_rank=20, rng=seed)
    best = float(torch.linalg.svdvals(a)[20:].square().sum())
    assert part.discarded2 <= 1.03 * best


def test_small_singular_values_are_found() -> None:
    s = 10.0 ** -torch.arange(10, dtype=torch.float64)
    for driver in ("auto", "svd", "qr", "randomised"):
        a = with_values(s, 60, 5000)
        _, true, best = check(a, max_rank=6, driver=driver)
        assert true <= 1.01 * best
        part, true, _ = check(a, tail2=1e-14, driver=driver)
        assert part.rank == 8
        assert true <= 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_equal_numbers_round_alike(dtype: torch.dtype) -> None:
    """A float32 Gram matrix of constant rows is wrong by 2e-6, all in one direction; the certificate must know."""
    a = torch.full((60, 20000), 1 / 3, dtype=dtype)
    a[30:] = 0.7
    for size in (1e-2, 1e-3, 1e-4):
        noise = gaussian(60, 20000, dtype=dtype)
        x = a + noise * (size * float(a.norm()) / float(noise.norm()))
        for driver in ("auto", "gram"):
            for part, true, best in (
                check(x, max_rank=1, driver=driver),
                check(x, tail2=(1.02 * size) ** 2 * float(wide(x).norm() ** 2), driver=driver),
            ):
                assert part.rank == 1
                assert true <= 1.01 * best


def test_same_seed_same_answer() -> None:
    a = gaussian(100, 3000)
    one, two = (split(a, max_rank=5, driver="randomised", rng=3) for _ in range(2))
    assert torch.equal(one.basis, two.basis)


class Sizes(TorchDispatchMode):
    """Records the largest tensor that is newly allocated, and the names of the operators."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        if isinstance(result, Tensor) and result._base is None and not func.is_view:
            self.largest = max(self.largest, result.numel())
        return result


@pytest.mark.parametrize("driver", ["auto", "gram", "qr", "randomised"])
@pytest.mark.parametrize("turn", [False, True])
def test_data_are_not_copied(driver: str, turn: bool) -> None:
    a = torch.stack([gaussian(60, 40000), gaussian(60, 40000, seed=1)], dim=-1)[..., 0]
    with Sizes() as sizes:
        split(a.mT if turn else a, max_rank=4, driver=driver, rng=0)
    assert sizes.largest <= a.numel() // 2


def test_loose_tolerance_takes_no_svd_of_the_matrix() -> None:
    a = gaussian(100, 5000)
    with Sizes() as sizes:
        split(a, tail2=0.5 * float(a.norm() ** 2), rng=0)
    assert not {"_linalg_svd", "linalg_qr"} & sizes.names


def test_never_a_kernel_that_does_not_resolve_the_tolerance() -> None:
    for dtype in (torch.float64, torch.complex128):
        for shape in ((50, 50), (200, 100000), (100000, 200)):
            assert choose_driver(shape, dtype, tail2=1e-16)[0] != "gram"
            assert choose_driver(shape, dtype, tail2=1e-4)[0] == "gram"
            assert choose_driver(shape, dtype)[0] != "gram"
    assert choose_driver((1000, 1000), torch.float64, max_rank=10)[1] >= 17
    assert choose_driver((1000, 1000), torch.float64, max_rank=10)[1] < 1000
    assert choose_driver((20, 10**6), torch.float64, max_rank=5)[1] == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(12, 90), (90, 12), (9, 9)])
@pytest.mark.parametrize("tail2", [None, 1e-3, 1e-20])
def test_spectrum(dtype: torch.dtype, shape: tuple[int, int], tail2: float | None) -> None:
    a = with_values(torch.linspace(2, 0.1, min(shape)), *shape, dtype=dtype)
    for view in (a, a.conj()):
        found = spectrum(view, tail2=tail2)
        assert torch.allclose(found.s2, torch.linspace(2, 0.1, min(shape), dtype=torch.float64) ** 2, rtol=1e-4)
        assert found.side == ("left" if shape[0] <= shape[1] else "right")
        v = found.vectors
        g = view @ view.mH if found.side == "left" else view.mH @ view
        assert torch.allclose(g @ v, v * found.s2.to(v.dtype), atol=1e-4)
        assert torch.allclose(v.mH @ v, torch.eye(min(shape), dtype=dtype), atol=1e-5)


def test_messages() -> None:
    a = torch.ones(2, 3)
    with pytest.raises(ShapeError, match="seen shape"):
        split(torch.ones(3))
    with pytest.raises(ShapeError):
        split(torch.ones(0, 3))
    with pytest.raises(ShapeError):
        spectrum(torch.ones(3))
    with pytest.raises(DTypeError, match="float16"):
        split(a.half())
    with pytest.raises(DTypeError):
        split(a.int())
    with pytest.raises(RankError, match="max_rank=0"):
        split(a, max_rank=0)
    with pytest.raises(OptionError, match="tail2"):
        split(a, tail2=-1.0)
    with pytest.raises(OptionError, match="tail2"):
        split(a, tail2=float("nan"))
    with pytest.raises(OptionError, match="side"):
        split(a, side="up")
    with pytest.raises(UnknownNameError, match="gram"):
        split(a, driver="gran")
    with pytest.raises(DataError):
        split(a * float("nan"))


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_gradient_where_singular_values_coincide(
    driver: str, dtype: torch.dtype, shape: tuple[int, int], side: str
) -> None:
    s = torch.ones(min(shape))
    s[:2] = 2
    a = with_values(s, *shape, dtype=dtype).requires_grad_()
    for rank in (2, min(shape)):
        assert torch.autograd.gradcheck(
            lambda x, r=rank: split(x, max_rank=r, side=side, driver=driver, rng=0).product(), (a,), atol=1e-6
        )


def test_gradient_is_finite_at_ties_across_the_cut() -> None:
    a = torch.eye(5, dtype=torch.float64, requires_grad=True)
    split(a, max_rank=2).product().sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    b = gaussian(5, 4)
    gradient = torch.func.grad(lambda x: (split(x, max_rank=2).product() ** 3).sum())(b)
    b.requires_grad_()
    (split(b, max_rank=2).product() ** 3).sum().backward()
    assert torch.allclose(b.grad, gradient)


@pytest.mark.gpu
@pytest.mark.parametrize("driver", DRIVERS)
def test_on_a_gpu(driver: str) -> None:
    a = with_values(torch.logspace(0, -3, 60), 60, 8000, dtype=torch.float32).cuda()
    part = split(a, max_rank=10, driver=driver, rng=0)
    assert part.basis.is_cuda
    assert part.rest.is_cuda
    assert (a - part.product()).norm() <= 1.01 * torch.logspace(0, -3, 60)[10:].norm()
