"""Everything keeps to the device and dtype of its input, and takes to the host no more than a spectrum.

Without an accelerator the device is acted (`emulated.py`): a tensor made on the default device fails where it meets the
others, one of the default dtype is noted, and so is every copy to the host. With CUDA the same runs there (mark `gpu`).
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

import tnkit as tk
from tests.contract.emulated import OnDevice, default_dtype, watching
from tnkit.formats import Format, as_spec, operations, random_tensors, resolve_ranks
from tnkit.registry import FORMATS, METHODS
from tnkit.rng import generator

SHAPE = (6, 7, 8)
#: Entries that may go to the host at once: singular values of an unfolding do.
SPECTRUM = 64
EQUATION = "ia,ajb,bk->ijk"
DTYPES = [torch.float32, torch.complex128]
#: Rounded by a decomposition, which other tests here run.
FITTED = ("tr", "cp", "btd", "blast")
DEVICES = ["acted", pytest.param("cuda", marks=pytest.mark.gpu)]

OPERATIONS = {
    "to_dense": lambda a, b: a.to_dense(),
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "scale": lambda a, b: 2.5 * a / 3,
    "add another structure": lambda a, b: (a + b.to_network()).to_dense() if a.view() is None else a.to_dense(),
    "inner": lambda a, b: a.inner(b),
    "at (list)": lambda a, b: a.at([[0, 1, -1]] * 3),
    "at (tensor)": lambda a, b: a.at(torch.zeros((3, 3), dtype=torch.int64)),
    "integer": lambda a, b: a[..., 0],
    "slice": lambda a, b: a[1:, ::2],
    "entry": lambda a, b: a[0, 1, 2],
    "sum": lambda a, b: a.sum(),
    "sum over modes": lambda a, b: a.sum((0, -1)),
    "matmul": lambda a, b: a @ b.to_dense().reshape(8, -1),
    "round by eps": lambda a, b: a.round(eps=1e-3),
    "round by rank": lambda a, b: (a + a).round(2),
    "to_network": lambda a, b: a.to_network(),
    "clone": lambda a, b: a.clone().detach(),
}


def place(x, device):
    return OnDevice(x) if device == "acted" else x.to(device)


def require_clean(result, device, dtype, watch):
    tensors = result.tensors() if isinstance(result, Format) else (result,)
    kinds = {torch.float32: torch.float32, torch.complex64: torch.float32}
    allowed = {dtype, kinds.get(dtype, torch.float64)} if tensors[0].ndim == 0 else {dtype}
    for t in tensors:
        assert t.device.type == ("meta" if device == "acted" else device)
        assert t.dtype in allowed
    if watch is not None:
        assert [copy for copy in watch.copies if copy[1] > SPECTRUM] == []
        assert watch.defaults == []


def on(device):
    return watching() if device == "acted" else nullcontext()


def build(name, seed, device, dtype):
    layout = as_spec(name).layout(SHAPE)
    like = place(torch.empty(0, dtype=dtype), device)
    gen = generator(seed, like.device) if device != "acted" else generator(seed)
    return layout.build(random_tensors(layout, resolve_ranks(layout, 2), like, gen))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*FORMATS.names(), EQUATION])
def test_operations(name, dtype, device):
    with on(device) as watch:
        a, b = build(name, 0, device, dtype), build(name, 1, device, dtype)
    require_clean(a, device, dtype, watch)
    for operation, operate in OPERATIONS.items():
        if operation.startswith("round") and name in FITTED:
            continue
        with on(device) as watch:
            result = operate(a, b)
        require_clean(result, device, dtype, watch)
    with on(device) as watch:
        norm = a.norm()
    assert not norm.is_complex()
    require_clean(norm, device, dtype, watch)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["tt", "ttm", "tucker", "ht"])
def test_orthogonalize(name, device):
    value = build(name, 0, device, torch.float32)
    value = value.format if isinstance(value, tk.Tensorized) else value
    with on(device) as watch:
        result = operations.orthogonalize(value)
    require_clean(result, device, torch.float32, watch)


def fits():
    for method in METHODS.names():
        if METHODS.get(method).needs == "entries":
            continue  # the function lives on the host: indices go there and values come back, whatever the device
        formats = METHODS.get(method).formats
        for name in ("btd", "blast", EQUATION) if "*" in formats else formats:
            if name in FORMATS or "->" in name:
                yield method, name


def targets(method):
    accepted = METHODS.get(method).accepts
    return [{key: value} for key, value in (("rank", 2), ("eps", 0.3), ("budget", 0.6)) if key in accepted]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize(("method", "name"), list(fits()), ids=str)
def test_every_method(method, name, dtype, device):
    layout = as_spec(name).layout(SHAPE)
    if not METHODS.get(method)().suits(layout):
        pytest.skip(f"{method} does not suit {name} over this shape")
    x = place(build("tt", 3, "cpu", dtype).to_dense().contiguous(), device)
    for target in targets(method):
        with on(device) as watch:
            fit = tk.decompose(x, name, method=method, time_limit_s=0.5, **target)
        require_clean(fit.tensor, device, dtype, watch)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FORMATS.names())
def test_decompose_chooses(name, device):
    dtype = torch.float32
    x = place(build("cp", 3, "cpu", dtype).to_dense().contiguous(), device)
    with on(device) as watch:
        fit = tk.decompose(x, name, eps=0.2, time_limit_s=0.5)
    require_clean(fit.tensor, device, dtype, watch)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("name", ["tt", "tr", "cp", "tucker"])
def test_complete(name, dtype, device):
    x = build("cp", 3, "cpu", dtype).to_dense().contiguous()
    mask = torch.rand(SHAPE, generator=generator(0)) < 0.7
    x, mask = place(x, device), place(mask, device)
    with on(device) as watch:
        done = tk.complete(x, name, mask=mask, rank=2, time_limit_s=0.5)
        filled = done.filled
    require_clean(done.tensor, device, dtype, watch)
    assert filled.device.type == x.device.type
    assert filled.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_default_dtype_has_no_say(dtype):
    """The same bits, whichever dtype is the default one."""
    other = torch.float64 if dtype == torch.float32 else torch.float32
    x = build("cp", 3, "cpu", dtype).to_dense()
    plain = [tk.decompose(x, name, eps=0.2, time_limit_s=5).tensor for name in ("tt", "tucker", "ht")]
    with default_dtype(other):
        there = [tk.decompose(x, name, eps=0.2, time_limit_s=5).tensor for name in ("tt", "tucker", "ht")]
    for a, b in zip(plain, there, strict=True):
        for s, t in zip(a.tensors(), b.tensors(), strict=True):
            assert s.dtype == t.dtype == dtype
            assert torch.equal(s, t)


class TestTheActedDevice:
    """What the tests above would not see without it."""

    def test_a_tensor_of_the_default_device_is_caught(self):
        x = OnDevice(torch.ones(4))
        with watching(), pytest.raises(RuntimeError, match=r"a CPU tensor"):
            _ = x + torch.ones(4, dtype=x.dtype)

    def test_a_tensor_of_the_default_dtype_is_caught(self):
        with watching() as watch:
            torch.zeros(3, device=OnDevice(torch.ones(4)).device)
        assert watch.defaults

    def test_whole_numbers_times_a_float_are_caught(self):
        with watching() as watch:
            _ = OnDevice(torch.arange(3)) * 0.5
        assert watch.defaults

    def test_a_copy_to_the_host_is_caught(self):
        x = OnDevice(torch.ones(100))
        with watching() as watch:
            x.cpu()
            x.tolist()
            float(x.sum())
        assert [n for _, n in watch.copies] == [100, 100, 1]

    def test_numpy_is_refused(self):
        with watching(), pytest.raises((RuntimeError, TypeError)):
            np.asarray(OnDevice(torch.ones(4)))

    def test_values_are_computed(self):
        x = torch.arange(6.0).reshape(2, 3)
        with watching():
            y = OnDevice(x) @ OnDevice(x).mT
        assert torch.equal(y.inner, x @ x.mT)
