"""The weighted primitive: its error identity, its exactness, and metrics that other libraries fail on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tnkit.errors import DataError, DTypeError, RankError, ShapeError
from tnkit.nn import LowRankLayer, compress_layer, pivot_rows, weighted_basis, weighted_lowrank


def matrix(m: int, n: int, seed: int) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def root(gram: torch.Tensor) -> torch.Tensor:
    energy, vectors = torch.linalg.eigh(gram)
    return (vectors * energy.clamp_min(0).sqrt()) @ vectors.mT


@given(
    m=st.integers(1, 13),
    n=st.integers(1, 13),
    rows=st.integers(1, 30),
    seed=st.integers(0, 999),
    rank=st.integers(1, 13),
)
def test_error_is_the_sum_of_dropped_squares(m: int, n: int, rows: int, seed: int, rank: int) -> None:
    w, x = matrix(m, n, seed), matrix(rows, n, seed + 1)
    rank, f = min(rank, m, n), matrix(1, m, seed + 2)[0].square() + 0.1
    b, a, s = weighted_lowrank(w, rank, gram=x.mT @ x, row_weight=f)
    wrong = (f.sqrt()[:, None] * (w - b @ a) @ x.mT).square().sum()
    assert b.shape == (m, rank)
    assert a.shape == (rank, n)
    assert torch.allclose(wrong, s[rank:].square().sum(), rtol=1e-6, atol=1e-9 * float(s.square().sum()))


@given(m=st.integers(1, 11), n=st.integers(1, 11), rows=st.integers(0, 4), seed=st.integers(0, 999))
def test_full_rank_leaves_the_matrix_unchanged_also_where_the_gram_matrix_is_singular(
    m: int, n: int, rows: int, seed: int
) -> None:
    w, x = matrix(m, n, seed), matrix(rows, n, seed + 1)
    b, a, _ = weighted_lowrank(w, min(m, n), gram=x.mT @ x)
    assert torch.allclose(b @ a, w, atol=1e-9)


def test_no_other_factors_of_that_rank_do_better() -> None:
    w, x = matrix(8, 6, 0), matrix(40, 6, 1) * torch.arange(1.0, 7.0, dtype=torch.float64)
    b, a, s = weighted_lowrank(w, 3, gram=x.mT @ x)
    plain_b, plain_a, _ = weighted_lowrank(w, 3)
    best = ((w - b @ a) @ x.mT).norm()
    assert best < ((w - plain_b @ plain_a) @ x.mT).norm()
    assert torch.allclose(best, torch.linalg.svdvals(w @ x.mT)[3:].norm())
    assert torch.allclose(s, torch.linalg.svdvals(w @ root(x.mT @ x)))


def test_dead_channels_cost_nothing() -> None:
    w, x = matrix(5, 7, 0), matrix(30, 7, 1)
    x[:, [1, 4, 5, 6]] = 0
    b, a, s = weighted_lowrank(w, 3, gram=x.mT @ x)
    assert torch.allclose((b @ a) @ x.mT, w @ x.mT)
    assert torch.equal(s[3:], torch.zeros(2, dtype=torch.float64))


def test_a_diagonal_gram_matrix_is_the_same_as_its_vector() -> None:
    w, d = matrix(5, 7, 0), matrix(1, 7, 1)[0].square()
    full, short = weighted_lowrank(w, 2, gram=torch.diag(d)), weighted_lowrank(w, 2, gram=d)
    assert torch.allclose(full[0] @ full[1], short[0] @ short[1])


def test_rows_without_information_do_not_explode() -> None:
    f = torch.tensor([1.0, 0.0, 1.0, 0.0])
    b, a, _ = weighted_lowrank(matrix(4, 4, 0), 2, row_weight=f)
    assert (b @ a).abs().max() < 1e4
    exact_b, exact_a, _ = weighted_lowrank(matrix(4, 4, 0), 4, row_weight=f)
    assert torch.allclose(exact_b @ exact_a, matrix(4, 4, 0), atol=1e-8)
    zero_b, zero_a, _ = weighted_lowrank(matrix(4, 4, 0), 4, row_weight=torch.zeros(4))
    assert torch.allclose(zero_b @ zero_a, matrix(4, 4, 0))


def test_dtype_comes_back_and_the_input_is_not_changed() -> None:
    w = torch.randn(4, 6, dtype=torch.bfloat16)
    before = w.clone()
    b, a, s = weighted_lowrank(w, 4)
    assert (b.dtype, a.dtype, s.dtype) == (torch.bfloat16, torch.bfloat16, torch.float64)
    assert torch.equal(w, before)


def test_a_zero_matrix() -> None:
    b, a, s = weighted_lowrank(torch.zeros(3, 4), 3, gram=torch.eye(4))
    assert torch.equal(b @ a, torch.zeros(3, 4))
    assert float(s.sum()) == 0.0


@pytest.mark.parametrize("rank", [0, 4, -1, 2.0])
def test_impossible_ranks(rank: int) -> None:
    with pytest.raises(RankError, match="1 … 3"):
        weighted_lowrank(torch.ones(3, 4), rank)


def test_bad_input() -> None:
    with pytest.raises(ShapeError, match="gram of shape"):
        weighted_basis(torch.ones(3, 4), gram=torch.eye(3))
    with pytest.raises(ShapeError, match="row_weight of shape"):
        weighted_basis(torch.ones(3, 4), row_weight=torch.ones(4))
    with pytest.raises(ShapeError, match="non-empty"):
        weighted_basis(torch.ones(3, 0))
    with pytest.raises(DataError, match="NaN"):
        weighted_basis(torch.full((3, 4), float("nan")))
    with pytest.raises(DataError, match="negative"):
        weighted_basis(torch.ones(2, 2), row_weight=torch.tensor([1.0, -1.0]))
    with pytest.raises(DTypeError, match="int64"):
        weighted_basis(torch.ones(2, 2, dtype=torch.int64))


@given(m=st.integers(1, 30), r=st.integers(1, 30), seed=st.integers(0, 999))
def test_pivots_are_exact_and_bounded(m: int, r: int, seed: int) -> None:
    basis = matrix(m, min(m, r), seed)
    rows, others, c = pivot_rows(basis)
    assert sorted([*rows.tolist(), *others.tolist()]) == list(range(m))
    assert torch.allclose(c @ basis[rows], basis[others], atol=1e-9)
    assert c.numel() == 0 or float(c.abs().max()) <= 1.1 + 1e-9


def test_pivots_of_a_wide_matrix() -> None:
    with pytest.raises(ShapeError, match="tall"):
        pivot_rows(torch.ones(2, 3))


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
@pytest.mark.parametrize("fall", [0.5, 3.0])
def test_a_float32_weight_needs_no_svd(shape: tuple[int, int], fall: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Gram matrix in float64 says as much: errors are the best ones, and full rank is exact."""
    rng, k = torch.Generator().manual_seed(0), min(shape)
    u, v = (torch.linalg.qr(torch.randn(size, k, generator=rng, dtype=torch.float64))[0] for size in shape)
    weight = ((u * torch.arange(1, k + 1) ** -fall) @ v.mT).float()
    best = torch.linalg.svdvals(weight.double())

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("an SVD")

    monkeypatch.setattr(torch.linalg, "svd", refuse)
    basis = weighted_basis(weight)
    for rank in (1, k // 2, k - 3, k):
        left, right = basis.factors(rank)
        error = float((left @ right - weight.double()).norm())
        assert error <= float(best[rank:].square().sum().sqrt()) + 1e-9
    assert torch.allclose(basis.s, best, rtol=1e-6, atol=1e-9)


def test_a_layer_whose_size_is_given_is_analysed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither keep nor a rank makes the decomposition twice; under a budget ranks come later."""
    calls = []
    inner = torch.linalg.eigh

    def counted(*args: object, **options: object) -> object:
        calls.append(1)
        return inner(*args, **options)

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    layer = torch.nn.Linear(30, 20)
    for spec in (LowRankLayer(keep=0.5), LowRankLayer(rank=5), LowRankLayer(keep=0.5, pivoted=False)):
        calls.clear()
        made = compress_layer(layer, spec).module
        assert len(calls) == 1
        assert made.n_factor_params() <= 300
