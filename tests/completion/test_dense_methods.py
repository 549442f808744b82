"""Methods without a format: patch groups, biharmonic, nuclear norms, robust; and the automatic choice among them."""

import itertools

import numpy as np
import pytest
import torch

from benchmarks.completion_data import blocks, entries, fibres, lines, outages, pixels, traffic
from tnkit.completion import (
    TCTV,
    Biharmonic,
    CompletionMethod,
    HaLRTC,
    Observations,
    PatchGroups,
    RobustTubal,
    TruncatedNuclear,
    TubalNuclear,
    complete,
)
from tnkit.completion.dense_choice import looks_like_a_cube, looks_like_a_panel, looks_like_an_image
from tnkit.completion.holdout_alike import split_alike
from tnkit.completion.patch_match import neighbours
from tnkit.completion.slices import dct, learnt, shrink_matrix, shrink_slices
from tnkit.completion.spatial import pyramid, thin_plate
from tnkit.errors import DTypeError, OptionError, ShapeError
from tnkit.rng import generator

DENSE: list[CompletionMethod] = [
    PatchGroups(max_steps=3),
    Biharmonic(),
    HaLRTC(),
    TruncatedNuclear(thetas=(0.0, 0.1)),
    TubalNuclear(transform="learnt", slices=(0, 1)),
    RobustTubal(max_steps=60),
]
IDS = [method.name for method in DENSE]
RNG = np.random.default_rng(0)
ROW, COLUMN = np.mgrid[:28, :26]
X = np.stack([np.sin(ROW / 4 + COLUMN / 9), ROW * COLUMN / 700, np.cos(COLUMN / 3)], -1)
SEEN = RNG.random(X.shape) < 0.5


def stripes(n: int = 64) -> np.ndarray:
    """A picture that repeats itself, as woven cloth does."""
    i, j = np.mgrid[:n, :n]
    cloth = 0.5 + 0.3 * np.sign(np.sin(i * 0.45 + j * 0.2)) + 0.1 * np.sin(j / 9)
    return np.stack([cloth, 0.8 * cloth, 0.2 + 0.5 * cloth], -1)


def rmse(filled: np.ndarray, x: np.ndarray, mask: np.ndarray) -> float:
    return float(np.sqrt(np.mean((filled - x)[~mask] ** 2)))


@pytest.mark.parametrize("method", DENSE, ids=IDS)
@pytest.mark.parametrize("trash", [np.nan, 1e300])
def test_what_stands_in_missing_cells_changes_nothing(method: CompletionMethod, trash: float) -> None:
    plain = complete(X, mask=SEEN, method=method)
    spoilt = complete(np.where(SEEN, X, trash), mask=SEEN, method=method)
    assert plain.filled.tobytes() == spoilt.filled.tobytes()
    assert plain.filled[SEEN].tobytes() == X[SEEN].tobytes()
    assert plain.heldout_error is not None
    assert plain.tensor is None


@pytest.mark.parametrize("method", DENSE, ids=IDS)
@pytest.mark.parametrize("scale", [1e-120, 1e120])
def test_scale_does_not_matter(method: CompletionMethod, scale: float) -> None:
    plain = complete(X, mask=SEEN, method=method).filled
    scaled = complete(X * scale, mask=SEEN, method=method).filled / scale
    np.testing.assert_allclose(scaled, plain, atol=2e-2)


@pytest.mark.parametrize("method", DENSE, ids=IDS)
def test_constant_zero_whole_and_single_precision(method: CompletionMethod) -> None:
    for x in (np.zeros((12, 11, 4)), np.full((12, 11, 4), 3.0, dtype=np.float32)):
        mask = np.random.default_rng(1).random(x.shape) < 0.6
        done = complete(x, mask=mask, method=method)
        assert done.filled.dtype == x.dtype
        np.testing.assert_allclose(done.filled, x, atol=0.05)
        assert complete(x, method=method).status.name == "nothing_missing"


@pytest.mark.parametrize("method", DENSE, ids=IDS)
def test_complex_values_and_too_few_modes_are_refused(method: CompletionMethod) -> None:
    with pytest.raises(DTypeError, match="real arrays"):
        complete(X * 1j, mask=SEEN, method=method)
    with pytest.raises(ShapeError, match="modes"):
        complete([1.0, np.nan, 2.0], method=method)
    with pytest.raises(OptionError, match="fits no format"):
        complete(X, "tt", mask=SEEN, method=method)


@pytest.mark.parametrize("method", [m for m in DENSE if m.name != "biharmonic"], ids=lambda m: m.name)
@pytest.mark.parametrize("when", [1, 5])
def test_an_interrupt_gives_the_best_so_far(method: CompletionMethod, when: int) -> None:
    def press(info: object) -> None:
        if info.step == when:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    done = complete(X, mask=SEEN, method=method, progress=press)
    assert done.status.name == "interrupted"
    assert np.isfinite(done.filled).all()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: PatchGroups(group=0),
        lambda: PatchGroups(start="tctx"),
        lambda: HaLRTC(factor=1.0),
        lambda: TruncatedNuclear(thetas=()),
        lambda: TruncatedNuclear(thetas=(1.5,)),
        lambda: TubalNuclear(transform="dkt"),
        lambda: TubalNuclear(slices=(1, 1)),
        lambda: RobustTubal(strength=0.0),
    ],
)
def test_options_that_cannot_be(wrong: object) -> None:
    with pytest.raises(OptionError):
        wrong()  # type: ignore[operator]


def test_patches_beat_their_start_where_a_picture_repeats_itself() -> None:
    x = stripes()
    mask = pixels(x.shape, 0.3, 0)
    start = rmse(complete(x, mask=mask, method=TCTV()).filled, x, mask)
    done = complete(x, mask=mask)
    assert done.method == "patches"
    assert rmse(done.filled, x, mask) < 0.9 * start
    assert done.heldout_error is not None


@pytest.mark.parametrize(
    "hole", [lambda s: blocks(s, 5, 8, 0), lambda s: lines(s, 0.6, 0, 0), lambda s: lines(s, 0.6, 0, 1)]
)
def test_blocks_rows_and_columns_are_no_worse_than_the_smooth_surface(hole: object) -> None:
    x = stripes()
    mask = hole(x.shape)  # type: ignore[operator]
    smooth = rmse(complete(x, mask=mask, method=Biharmonic(holdout=0.0)).filled, x, mask)
    assert rmse(complete(x, mask=mask).filled, x, mask) <= 1.05 * smooth


def test_a_smooth_cube_goes_to_patches() -> None:
    i, j = np.mgrid[:32, :32] / 32
    maps = np.stack([(np.sin(9 * i + 5 * j * j) > 0) + 0.2 * j, (np.cos(11 * j) > i) + 0.1, i + j], -1)
    x = maps @ np.abs(np.random.default_rng(0).normal(size=(3, 40)).cumsum(1)) + 1
    x = x + 0.02 * np.random.default_rng(2).normal(size=x.shape)
    mask = entries(x.shape, 0.1, 0)
    done = complete(x, mask=mask)
    assert looks_like_a_cube(done.observations)
    assert np.linalg.norm((done.filled - x)[~mask]) < 0.1 * np.linalg.norm(x[~mask])


@pytest.mark.parametrize(
    "pattern", [lambda s: entries(s, 0.4, 1), lambda s: fibres(s, 0.5, 1), lambda s: outages(s, 0.7, 1)]
)
def test_panels_truncated_and_learnt_are_never_worse_than_halrtc(pattern: object) -> None:
    x = traffic(30, 21, 24, seed=3)
    mask = pattern(x.shape)  # type: ignore[operator]
    base = rmse(complete(x, mask=mask, method=HaLRTC(holdout=0.0)).filled, x, mask)
    for method in (TruncatedNuclear(), TubalNuclear()):
        assert rmse(complete(x, mask=mask, method=method).filled, x, mask) <= base
    assert looks_like_a_panel(Observations.from_dense(x, mask))


def test_gross_errors_are_told_from_the_rest() -> None:
    rng = np.random.default_rng(0)
    x = np.einsum("ir,jr,k->ijk", rng.normal(size=(40, 2)), rng.normal(size=(35, 2)), np.ones(5))
    wrong = rng.random(x.shape) < 0.1
    spoilt = np.where(wrong, x + 10 * rng.choice([-1, 1], x.shape), x)
    done = complete(spoilt, mask=rng.random(x.shape) < 0.8, method=RobustTubal())
    assert done.dense is not None
    assert np.linalg.norm(done.dense.numpy() - x) < 1e-2 * np.linalg.norm(x)


def test_what_is_an_image_a_cube_a_panel() -> None:
    x = stripes(40)
    obs = Observations.from_dense(x, pixels(x.shape, 0.5, 0))
    assert looks_like_an_image(obs)
    assert not looks_like_a_cube(obs)
    noise = Observations.from_dense(RNG.normal(size=(40, 40, 3)), entries((40, 40, 3), 0.5, 0))
    assert not looks_like_an_image(noise)
    assert looks_like_a_panel(noise)
    assert not looks_like_a_panel(noise.with_values(noise.values * 1j))
    assert not looks_like_a_panel(noise.with_weights(torch.ones_like(noise.values)))


# --- what they are made of -------------------------------------------------------------------------------------------


def test_blocks_and_rows_are_held_out_where_blocks_and_rows_are_missing() -> None:
    mask = lines((60, 50, 3), 0.8, 0, 0)
    obs = Observations.from_dense(np.zeros(mask.shape), mask)
    held = split_alike(obs, 0.05, generator(0))
    assert held is not None
    rows = torch.zeros(mask.shape, dtype=torch.bool)
    rows[tuple(obs.indices[held].unbind(-1))] = True
    per_row = rows.sum((1, 2))
    assert set(per_row.tolist()) == {0, 150}
    few = Observations.from_dense(np.zeros((60, 50, 3)), entries((60, 50, 3), 0.3, 0))
    single = split_alike(few, 0.1, generator(0))
    assert single is not None
    assert int(single.sum()) == round(0.1 * few.n)


def test_neighbours_are_those_of_a_plain_search() -> None:
    x = torch.randn(2, 14, 13, dtype=torch.float64, generator=generator(0))
    (refs, (high, wide)), near, far = neighbours(x, (4, 3), 3, 4, 5)
    assert (high, wide) == (11, 11)
    patches = x.unfold(1, 4, 1).unfold(2, 3, 1)
    for ref, mine, distances in zip(refs.tolist(), near, far, strict=True):
        i, j = divmod(ref, wide)
        every = {
            (a, b): float((patches[:, i, j] - patches[:, a, b]).square().mean())
            for a, b in itertools.product(
                range(max(0, i - 4), min(high, i + 5)), range(max(0, j - 4), min(wide, j + 5))
            )
            if (a, b) != (i, j)
        }
        best = sorted(every.values())[:5]
        assert distances.tolist() == pytest.approx(best, rel=1e-9)
        assert [every[divmod(p, wide)] for p in mine.tolist()] == pytest.approx(best, rel=1e-9)


def test_shrinkage_is_that_of_an_svd() -> None:
    t = torch.randn(6, 9, dtype=torch.float64, generator=generator(0))
    u, s, v = torch.linalg.svd(t, full_matrices=False)
    for spared in (0, 2):
        shrunk = (s - 1.0).clamp_min(0)
        shrunk[:spared] = s[:spared]
        torch.testing.assert_close(shrink_matrix(t, 1.0, spared), (u * shrunk) @ v)
        torch.testing.assert_close(shrink_matrix(t.mT, 1.0, spared), ((u * shrunk) @ v).mT)


def test_transforms_are_orthonormal() -> None:
    t = torch.randn(5, 4, 7, dtype=torch.float64, generator=generator(0))
    for d in (dct(7, t), learnt(t, 2)):
        torch.testing.assert_close(d @ d.mT, torch.eye(7, dtype=t.dtype))
    torch.testing.assert_close(shrink_slices(t, (learnt(t, 2),), 0.0), t)


def test_surfaces_keep_what_is_known_and_reproduce_planes() -> None:
    i, j = torch.meshgrid(torch.arange(20.0), torch.arange(17.0), indexing="ij")
    plane = (0.3 * i - 0.2 * j + 1).to(torch.float64)[None]
    seen = torch.ones_like(plane, dtype=torch.bool)
    seen[0, 6:12, 5:11] = False
    filled = thin_plate(torch.where(seen, plane, torch.nan), seen, tol=1e-10)
    torch.testing.assert_close(filled, plane, atol=1e-6, rtol=0)
    rough = pyramid(torch.where(seen, plane, torch.nan), seen)
    assert torch.equal(rough[seen], plane[seen])
    assert bool(torch.isfinite(rough).all())
