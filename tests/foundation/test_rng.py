"""Random numbers come from the generator that is named."""

import numpy as np
import pytest
import torch

import tnkit as tk
from tnkit.rng import generator, normal

LIKE = torch.empty(0, dtype=torch.float64)


def draws(rng):
    return normal((5,), LIKE, generator(rng))


def test_a_seed_gives_the_same_numbers():
    assert torch.equal(draws(7), draws(7))
    assert torch.equal(draws(7), draws(np.int64(7)))
    assert not torch.equal(draws(7), draws(8))


def test_no_seed_gives_fresh_ones():
    assert not torch.equal(draws(None), draws(None))


def test_a_torch_generator_goes_on():
    gen = torch.Generator().manual_seed(3)
    assert generator(gen) is gen
    assert not torch.equal(draws(gen), draws(gen))


def test_a_numpy_generator_gives_seeds():
    first, second = (draws(np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(first, second)
    rng = np.random.default_rng(5)
    assert not torch.equal(draws(rng), draws(rng))


@pytest.mark.parametrize("rng", ["7", 1.5, True, -1, [3], np.random.RandomState(0)])
def test_refused(rng):
    with pytest.raises(tk.OptionError, match=r"rng="):
        generator(rng)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
def test_normal_numbers(dtype):
    x = normal((4000,), torch.empty(0, dtype=dtype), generator(0))
    assert x.dtype == dtype
    assert float(x.abs().square().mean()) == pytest.approx(1.0, abs=0.1)
    assert abs(complex(x.mean())) < 0.1


def test_global_generators_are_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    draws(0)
    draws(None)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.gpu
def test_on_the_device():
    like = torch.empty(0, device="cuda")
    assert normal((3,), like, generator(0, like.device)).device.type == "cuda"
    assert normal((3,), like, generator(0)).device.type == "cuda"
