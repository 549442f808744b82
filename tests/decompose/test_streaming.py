"""Streams of slabs: eps for the whole at any time, also after truncations of the state; saving and going on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnkit as tk
from tests.properties.data import DTYPES, array, shapes, true_error
from tnkit.decompose import error_floor, stream_state

CLASSES = {"tt": tk.StreamingTT, "tucker": tk.StreamingTucker}
NAMES = list(CLASSES)


def pieces(x, mode, gen, most=4):
    at = 0
    while at < x.shape[mode]:
        n = min(1 + int(torch.randint(0, most, (1,), generator=gen)), x.shape[mode] - at)
        yield x.narrow(mode, at, n)
        at += n


def check(stream, x, eps):
    fit = stream.report()
    true = true_error(x, fit.tensor.to_dense())
    floor = error_floor(x.dtype, x.ndim)
    assert fit.tensor.shape == tuple(x.shape) == stream.shape
    assert fit.tensor.dtype == x.dtype
    if fit.status.ok:
        assert true <= eps * (1 + 1e-6) + 0.1 * floor
    else:
        assert fit.status.name == "floor"
        assert true <= max(eps, floor)
    assert true <= 1.01 * fit.rel_error + 4 * floor
    if fit.error_kind == "exact":
        assert fit.rel_error == pytest.approx(true, rel=0.01, abs=4 * floor)


def wild(x, mode, how, seed):
    """Slabs whose energies differ by orders of magnitude, or that leave one subspace for another, or are zero."""
    gen = torch.Generator().manual_seed(seed)
    n = x.shape[mode]
    if how == "drift":
        other = array(tuple(x.shape), "planted", seed + 1, x.dtype)
        t = (torch.arange(n) / max(1, n - 1)).reshape([n if k == mode else 1 for k in range(x.ndim)])
        return (1 - t).to(x.dtype) * x + t.to(x.dtype) * other
    weights = torch.ones(n, dtype=torch.float64)
    if how == "energies":
        weights = 10.0 ** (6 * torch.rand(n, generator=gen, dtype=torch.float64) - 3)
    if how == "growing":
        weights = 10.0 ** torch.linspace(-4, 3, n, dtype=torch.float64)
    if how == "zeros":
        weights = (torch.rand(n, generator=gen) > 0.5).to(torch.float64)
    return x * weights.reshape([n if k == mode else 1 for k in range(x.ndim)]).to(x.dtype)


@pytest.mark.parametrize("least", [16, 4096], ids=["truncated often", "never"])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30)
@given(data=st.data())
def test_eps_for_the_whole_at_any_time(name, least, data):
    shape = data.draw(shapes(most=5))
    mode = data.draw(st.integers(-len(shape), len(shape) - 1))
    dtype = data.draw(st.sampled_from(DTYPES))
    eps = data.draw(st.sampled_from([0.0, 1e-9, 1e-4, 0.01, 0.1, 0.5, 1.0]))
    how = data.draw(st.sampled_from(["plain", "energies", "growing", "drift", "zeros"]))
    kind = data.draw(st.sampled_from(["noise", "smooth", "planted", "zero"]))
    seed = data.draw(st.integers(0, 1000))
    shape = tuple(24 if k == mode % len(shape) else n for k, n in enumerate(shape))
    x = wild(array(shape, kind, seed, dtype), mode % len(shape), how, seed)
    stream = CLASSES[name](eps=eps, mode=mode)
    seen, before = 0, x.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_state, "LEAST", least)
        for k, slab in enumerate(pieces(x, mode, torch.Generator().manual_seed(seed))):
            stream.update(slab)
            seen += slab.shape[mode]
            if k % 4 == 3 or seen == x.shape[mode]:
                check(stream, x.narrow(mode, 0, seen), eps)
    assert torch.equal(x, before), "the caller's slabs were changed"
    assert stream.n_seen == seen


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exponent", [-200, 200])
def test_extreme_scales(name, exponent):
    x = array((20, 5, 6), "planted", 3) * 10.0**exponent
    stream = CLASSES[name](eps=0.1)
    for slab in x.split(3):
        stream.update(slab)
    check(stream, x, 0.1)


@pytest.mark.parametrize("name", NAMES)
def test_slabs_of_all_scales_in_one_stream(name):
    x = array((20, 5, 6), "planted", 3)
    x = torch.cat([0 * x, 1e-180 * x, x, 1e180 * x, 1e-10 * x])
    stream = CLASSES[name](eps=0.1)
    for slab in x.split(7):
        stream.update(slab)
    check(stream, x, 0.1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["planted", "smooth"])
def test_as_small_as_in_one_piece(name, kind):
    x = array((60, 6, 7), kind, 1)
    whole = tk.decompose(x, name, eps=0.01, method={"tt": "tt_svd", "tucker": "st_hosvd"}[name])
    stream = CLASSES[name](eps=0.01)
    for slab in x.split(4):
        stream.update(slab)
    assert stream.tensor.n_params <= 1.1 * whole.n_params


@pytest.mark.parametrize("name", NAMES)
def test_the_state_is_bounded(name):
    """Planted ranks with noise: what is kept beside the rows does not grow with the stream."""
    x = array((400, 8, 9), "planted", 1)
    stream = CLASSES[name](eps=0.01)
    sizes = []
    for slab in x.split(1):
        stream.update(slab)
        sizes.append(stream.nbytes // 8)
    assert sizes[399] - sizes[199] <= 200 * 8
    assert sizes[399] < 400 * 8 + 1000


@pytest.mark.parametrize("name", NAMES)
def test_ranks_are_limits(name):
    x = array((80, 6, 7), "planted", 1) + 0.05 * array((80, 6, 7), "noise", 2)
    stream = CLASSES[name](rank=2)
    both = CLASSES[name](rank=1, eps=1e-3)
    for slab in x.split(2):
        stream.update(slab)
        both.update(slab)
    assert max(stream.tensor.ranks) <= 2
    true = true_error(x, stream.tensor.to_dense())
    assert true <= stream.rel_error
    assert true <= 1.5 * tk.decompose(x, name, rank=2).rel_error
    assert max(both.tensor.ranks) == 1
    assert both.report().status.name == "eps_not_reached"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128], ids=str)
def test_save_and_go_on(name, dtype, tmp_path):
    x = array((20, 5, 6), "planted", 3, dtype)
    stream = CLASSES[name](eps=0.01, mode=1)
    slabs = x.movedim(0, 1).split(3, 1)
    for slab in slabs[:4]:
        stream.update(slab)
    stream.save(tmp_path / "s.safetensors")
    other = CLASSES[name].load(tmp_path / "s.safetensors")
    for slab in slabs[4:]:
        stream.update(slab)
        other.update(slab)
    assert repr(other) == repr(stream)
    assert other.rel_error == pytest.approx(stream.rel_error, rel=1e-3)
    for a, b in zip(stream.tensor.tensors(), other.tensor.tensors(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)
    with pytest.raises(tk.FileFormatError, match="is no saved"):
        CLASSES["tt" if name == "tucker" else "tucker"].load(tmp_path / "s.safetensors")
    with pytest.raises(tk.FileFormatError, match="stream"):
        tk.load(tmp_path / "s.safetensors")


def test_requests_that_cannot_be():
    with pytest.raises(tk.OptionError, match="eps= or rank="):
        tk.StreamingTT()
    with pytest.raises(tk.OptionError, match="eps=-1"):
        tk.StreamingTT(eps=-1)
    with pytest.raises(tk.OptionError, match="Give ints"):
        tk.StreamingTT(rank=0.5)
    stream = tk.StreamingTT(eps=0.1, mode=1)
    with pytest.raises(tk.DataError, match="seen nothing"):
        _ = stream.tensor
    with pytest.raises(tk.ShapeError, match="mode=1"):
        stream.update(torch.ones(3))
    stream.update(torch.ones(3, 2, 4))
    with pytest.raises(tk.ShapeError, match=r"\(3, any, 4\)"):
        stream.update(torch.ones(3, 2, 5))
    with pytest.raises(tk.DTypeError, match="complex"):
        stream.update(torch.ones(3, 2, 4, dtype=torch.complex128))
    with pytest.raises(tk.DataError, match="NaN"):
        stream.update(torch.full((3, 1, 4), torch.nan))
    assert stream.n_seen == 2
    assert "3, 2, 4" in repr(stream)
