"""A deadline or Ctrl-C in the middle of a long step ends every method with the best so far."""

import time

import numpy as np
import pytest
import torch

from tnkit.completion import CompletionALS, complete
from tnkit.completion.spatial import thin_plate
from tnkit.registry import COMPLETIONS
from tnkit.solvers import Control, OutOfTime, iterate, loop

UP, ACROSS = np.mgrid[:160, :150] / 40
X = np.stack([np.sin(3 * UP) + np.cos(ACROSS * UP), np.sign(np.sin(5 * ACROSS)) + UP, UP * ACROSS], -1)
SEEN = np.random.default_rng(0).random(X.shape) < 0.3


@pytest.mark.parametrize("method", ["auto", "patches", "tctv", "halrtc", "truncated", "tnn", "robust_tubal", "als"])
def test_half_a_second(method: str) -> None:
    done = complete(X, mask=SEEN, method=method, time_limit_s=0.3)
    assert done.status.name == "time_limit"
    assert np.isfinite(done.filled).all()
    assert np.array_equal(done.filled[SEEN], X[SEEN])


def test_every_method_is_asked() -> None:
    assert {"patches", "tctv", "halrtc", "truncated", "tnn", "robust_tubal", "als", "biharmonic"} <= set(COMPLETIONS)


def test_a_step_may_raise_out_of_time() -> None:
    control = Control(deadline=time.monotonic() + 1e9)
    control.check()
    late = Control(deadline=0.0)
    with pytest.raises(OutOfTime):
        late.check()

    def step(x: float, number: int) -> tuple[float, float]:
        if number == 3:
            raise OutOfTime
        return x / 2, x / 2

    ended = iterate(step, 1.0, Control(tol=0.0))
    assert (ended.value, ended.status.name) == (0.25, "time_limit")


def test_a_thin_plate_stops_at_the_deadline() -> None:
    x = torch.from_numpy(X).permute(2, 0, 1)
    seen = torch.from_numpy(SEEN).permute(2, 0, 1)
    rough = thin_plate(x, seen, max_steps=0)
    assert torch.equal(thin_plate(x, seen, Control(deadline=0.0)), rough)
    assert not torch.equal(thin_plate(x, seen), rough)


class Slow:
    """A clock on which everything takes an hour."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        self.now += 3600.0
        return self.now


@pytest.mark.parametrize("shape", [(30, 6), (12, 10, 8)])
def test_without_a_limit_the_clock_does_not_count(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    x = np.exp(np.sin(np.add.outer(rng.normal(size=shape[0]), rng.normal(size=np.prod(shape[1:])))).reshape(shape))
    mask = rng.random(shape) < 0.4
    noisy = x + 0.1 * x.std() * rng.normal(size=shape)
    at_ease = complete(noisy, mask=mask)
    assert "als" in at_ease.why  # a format is among what is compared
    monkeypatch.setattr(loop, "time", Slow())
    pressed = complete(noisy, mask=mask)
    assert pressed.why == at_ease.why
    assert pressed.status is at_ease.status
    assert np.array_equal(pressed.filled, at_ease.filled)


def test_effort_is_counted() -> None:
    mask = SEEN[:60, :60]
    x = np.sin(X[:60, :60]) + 0.1 * np.random.default_rng(1).normal(size=mask.shape)
    short, long = (complete(x, "tt", mask=mask, method=CompletionALS(effort=effort)) for effort in (5e8, None))
    assert short.status.name == "max_steps"
    assert len(short.history) < len(long.history) / 3
    assert short.tensor is not None
    assert short.heldout_error is not None
    assert short.heldout_error < 1
