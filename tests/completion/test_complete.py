"""The front door: what goes in and comes out, what is refused, what happens when time is short."""

import json
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tnkit.completion import TCTV, Completion, CompletionALS, Observations, complete
from tnkit.errors import DataError, EquationError, MaskError, OptionError, RankError, TnkitError, UnknownNameError
from tnkit.registry import COMPLETIONS
from tnkit.solvers import StepInfo

RNG = np.random.default_rng(0)
X = np.fromfunction(lambda i, j, k: 1.0 + i * j / 20 + np.cos(k), (9, 8, 7))
SEEN = RNG.random(X.shape) < 0.6
QUICK = CompletionALS(max_steps=20, starts=1)


def fill(x: object, **options: object) -> object:
    return complete(x, "tt", rank=2, method=QUICK, **options).filled  # type: ignore[arg-type]


@pytest.mark.parametrize("trash", [np.nan, 1e300, np.inf, -7.0])
@pytest.mark.parametrize("method", ["als", "tctv"])
def test_what_stands_in_missing_cells_changes_nothing_bit_by_bit(trash: float, method: str) -> None:
    def run(x: np.ndarray) -> np.ndarray:
        if method == "tctv":
            return complete(x, mask=SEEN, method="tctv").filled  # type: ignore[no-any-return]
        return complete(x, "tt", mask=SEEN, rank=2, method=QUICK).filled  # type: ignore[no-any-return]

    spoilt = np.where(SEEN, X, trash)
    before = spoilt.copy()
    assert run(spoilt).tobytes() == run(X).tobytes()
    assert spoilt.tobytes() == before.tobytes()


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.floats(0.2, 1.0), st.sampled_from([np.float32, np.float64]))
def test_observed_entries_come_back_bit_by_bit(seed: int, share: float, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, 5, 4)).astype(dtype)
    x[0, 0, 0], x[0, 0, 1] = -0.0, np.finfo(dtype).tiny
    mask = rng.random(x.shape) < share
    mask[0, 0, :2] = True
    done = complete(x, "tt", mask=mask, rank=2, method=CompletionALS(max_steps=5, starts=1))
    assert done.filled.dtype == dtype
    assert done.filled[mask].tobytes() == x[mask].tobytes()
    assert np.isfinite(done.filled).all()


def test_the_kind_of_array_is_kept() -> None:
    holes = np.where(SEEN, X, np.nan)
    assert type(fill(holes)) is np.ndarray
    assert fill(holes.astype(np.float16)).dtype == np.float16  # type: ignore[attr-defined]
    masked = fill(np.ma.masked_array(X, ~SEEN))
    assert isinstance(masked, np.ma.MaskedArray)
    assert masked.count() == masked.size
    tensor = fill(torch.from_numpy(holes).to(torch.float32))
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float32
    assert fill(torch.from_numpy(holes).to(torch.bfloat16)).dtype == torch.bfloat16  # type: ignore[attr-defined]
    observed = Observations(torch.from_numpy(np.argwhere(SEEN)), torch.from_numpy(X[SEEN]), X.shape)
    assert isinstance(fill(observed), torch.Tensor)
    assert type(fill(Observations(np.argwhere(SEEN), X[SEEN], X.shape))) is np.ndarray


def test_integers_come_back_as_float64() -> None:
    x = np.outer(np.arange(1, 13), np.arange(1, 11))
    mask = np.random.default_rng(0).random(x.shape) < 0.6
    filled = complete(x, "tt", mask=mask, rank=1).filled
    assert filled.dtype == np.float64
    np.testing.assert_allclose(filled, x, atol=1e-6)


def test_same_seed_same_answer_and_the_ways_in_agree() -> None:
    first = fill(X, mask=SEEN)
    assert np.array_equal(first, fill(X, mask=SEEN))  # type: ignore[call-overload]
    assert np.array_equal(first, fill(np.where(SEEN, X, np.nan)))  # type: ignore[call-overload]
    shuffled = np.random.default_rng(1).permutation(np.argwhere(SEEN))
    observed = Observations(shuffled, X[tuple(shuffled.T)], X.shape)
    assert np.array_equal(first, fill(observed))  # type: ignore[call-overload]
    assert not np.array_equal(first, fill(X, mask=SEEN, rng=5))  # type: ignore[call-overload]


def test_nothing_missing_is_no_work() -> None:
    def never(info: StepInfo) -> None:
        raise AssertionError("work was begun")

    for x in (X, X.astype(np.float32), torch.from_numpy(X), Observations.from_dense(X)):
        done = complete(x, progress=never)
        assert (done.status.name, done.method, done.tensor, done.heldout_error) == (
            "nothing_missing",
            "none",
            None,
            None,
        )
        assert type(done.filled) is (np.ndarray if isinstance(x, Observations) else type(x))
        assert np.array_equal(np.asarray(done.filled), np.asarray(X, dtype=np.asarray(done.filled).dtype))
        assert done.predict([[1, 2, 3]])[0] == done.filled[1, 2, 3]
    weighted = complete(X, weights=np.full(X.shape, 0.5), time_limit_s=5)
    assert weighted.tensor is not None


def test_nothing_missing_with_a_format_says_so_and_returns_x() -> None:
    done = complete(X, "tt", rank=3)
    assert done.status.name == "nothing_missing"
    assert done.status.ok
    assert done.filled.tobytes() == X.tobytes()
    assert done.tensor is not None
    assert done.train_error < 0.05


@pytest.mark.parametrize("x", [np.zeros((4, 5)), np.full((4, 5), 2.0), np.array([1.0, np.nan, 3.0])])
def test_small_and_constant_arrays(x: np.ndarray) -> None:
    holes = x.copy()
    holes.flat[1] = np.nan
    filled = complete(holes).filled
    assert np.isfinite(filled).all()
    if np.ptp(x[np.isfinite(x)]) == 0:
        np.testing.assert_allclose(filled, x, atol=1e-9)


def test_prediction_is_the_model() -> None:
    done = complete(X, "tt", mask=SEEN, rank=2, method=QUICK)
    places = np.argwhere(~SEEN)
    np.testing.assert_allclose(done.predict(places), done.filled[~SEEN])
    assert done.predict([[-1, -1, -1]])[0] == done.predict([[8, 7, 6]])[0]
    with pytest.raises(OptionError, match=r"leaves? the shape"):
        done.predict([[9, 0, 0]])


def test_auto_takes_a_smooth_image_to_patches_and_noise_to_least_squares() -> None:
    i, j = np.mgrid[:40, :30] / 40
    image = np.stack([np.sin(5 * i + 2 * j), i * j, j**2], -1)
    mask = np.random.default_rng(0).random(image.shape[:2]) < 0.4
    done = complete(np.where(mask[..., None], image, np.nan))
    assert (done.method, done.tensor) == ("patches", None)
    assert np.linalg.norm(done.filled - image) < 0.1 * np.linalg.norm(image)
    assert done.heldout_error is not None
    assert done.heldout_error < 0.1
    np.testing.assert_allclose(done.predict([[3, 4, 1]])[0], done.filled[3, 4, 1], rtol=1e-4)
    shuffled = image[np.random.default_rng(1).permutation(40)]
    assert complete(shuffled, mask=np.broadcast_to(mask[..., None], image.shape), time_limit_s=2).method == "als"


def test_auto_chooses_a_format_that_fits() -> None:
    done = complete(X, mask=SEEN)
    assert done.method == "als"
    assert done.tensor is not None
    assert "held-out" in done.why
    assert np.linalg.norm(done.filled - X) < 1e-6 * np.linalg.norm(X)


def test_progress_and_history_tell_the_same() -> None:
    heard: list[StepInfo] = []
    done = complete(X, "tt", mask=SEEN, rank=2, method=QUICK, progress=heard.append)
    assert tuple(heard) == done.history
    assert [info.step for info in heard] == list(range(1, len(heard) + 1))


class Interrupter:
    """Presses Ctrl-C at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, info: StepInfo) -> None:
        if info.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", [1, 4, 30])
@pytest.mark.parametrize("options", [{"format": "tt"}, {"format": "cp", "rank": 3}, {"method": "tctv"}, {}])
def test_an_interrupt_gives_the_best_so_far(step: int, options: dict[str, object]) -> None:
    done = complete(X, mask=SEEN, progress=Interrupter(step), **options)  # type: ignore[arg-type]
    assert done.status.name == "interrupted"
    assert np.isfinite(done.filled).all()
    assert np.array_equal(done.filled[SEEN], X[SEEN])


@pytest.mark.parametrize("options", [{"format": "tt"}, {"format": "cp", "rank": 6}, {"method": "tctv"}, {}])
def test_a_time_limit_is_kept(options: dict[str, object]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 40, 12))
    begun = time.monotonic()
    done = complete(x, mask=rng.random(x.shape) < 0.5, time_limit_s=0.2, **options)  # type: ignore[arg-type]
    assert time.monotonic() - begun < 5
    assert done.status.name == "time_limit"
    assert not done.status.ok
    assert np.isfinite(done.filled).all()


def test_summary_and_dictionary() -> None:
    done = complete(X, "tt", mask=SEEN, rank=2, method=QUICK)
    assert isinstance(done, Completion)
    text = repr(done)
    assert "entries observed" in text
    assert "TT(" in text
    assert "held out" in text
    values = json.loads(done.to_json())
    assert values["ranks"] == [2, 2]
    assert values["observed"] == int(SEEN.sum())
    assert json.dumps(complete(X, mask=SEEN, method=TCTV()).to_dict())


def test_registered() -> None:
    assert {"als", "tctv", "patches", "truncated", "tnn"} <= set(COMPLETIONS.names())
    assert all(COMPLETIONS.get(name).summary for name in COMPLETIONS)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"mask": SEEN[:3]}, MaskError, "mask has shape"),
        ({"mask": np.zeros_like(SEEN)}, MaskError, "Nothing is observed"),
        ({"rank": 3}, OptionError, 'rank=3 with format "auto"'),
        ({"format": "tt", "rank": 0}, RankError, "whole numbers of 1 or more"),
        ({"format": "tt", "rank": (99, 2)}, RankError, "exceeds"),
        ({"format": "tx"}, UnknownNameError, "Did you mean"),
        ({"format": "ia,aj->ij"}, EquationError, "3 modes"),
        ({"format": 7}, OptionError, "format=7"),
        ({"method": "alz"}, UnknownNameError, "Did you mean 'als'"),
        ({"method": 7}, OptionError, "method=7"),
        ({"format": "tt", "method": "tctv"}, OptionError, "fits no format"),
        ({"method": "tctv", "weights": np.ones(X.shape)}, OptionError, "takes no weights"),
        ({"time_limit_s": -1}, OptionError, "time_limit_s"),
        ({"time_limit_s": True}, OptionError, "time_limit_s"),
        ({"rng": -1}, OptionError, "negative"),
        ({"rng": "a"}, OptionError, "not a seed"),
    ],
)
def test_refusals_come_before_any_work(options: dict[str, object], kind: type[Exception], words: str) -> None:
    def never(info: StepInfo) -> None:
        raise AssertionError("work was begun")

    with pytest.raises(kind, match=words) as caught:
        complete(X, progress=never, **options)  # type: ignore[arg-type]
    assert isinstance(caught.value, TnkitError)


def test_more_refusals() -> None:
    observed = Observations.from_dense(X, SEEN)
    with pytest.raises(MaskError, match="leave mask out"):
        complete(observed, mask=SEEN)
    with pytest.raises(OptionError, match="give the weights there"):
        complete(observed, weights=SEEN)
    with pytest.raises(DataError, match="NaN or infinite"):
        complete(np.where(SEEN, np.inf, X), mask=SEEN)
    with pytest.raises(DataError, match="empty"):
        complete(np.zeros((0, 2)))
    with pytest.raises(TnkitError, match="real arrays"):
        complete(X * 1j, mask=SEEN, method="tctv")
    with pytest.raises(TnkitError, match="2 to 4 modes"):
        complete([1.0, np.nan], method="tctv")
    with pytest.raises(OptionError, match="factor must be above 1"):
        TCTV(factor=1.0)


def test_a_filled_array_that_does_not_fit_is_refused() -> None:
    observed = Observations([[0] * 6, [1] * 6], [1.0, 2.0], (2000,) * 6)
    done = complete(observed, "cp", rank=1, method=CompletionALS(max_steps=2))
    assert done.predict([[0] * 6]).shape == (1,)
    with pytest.raises(MemoryError, match="GiB"):
        _ = done.filled


def test_explain_says_what_was_done() -> None:
    x = np.outer(np.arange(1.0, 9.0), np.arange(1.0, 7.0))
    x[::3, 1] = np.nan
    told = complete(x, "tt", rank=1).explain()
    assert "45 of 48 entries" in told
    assert "tt" in told
    assert "held out" in told
