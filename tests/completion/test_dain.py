"""DAIN: influences as gradients say them, augmentation by importance, predictions without a dense array."""

import numpy as np
import pytest
import torch

from tnkit.completion import DAIN, Observations, complete
from tnkit.completion.dain import _drawn, _Net, _Run, entity_importance
from tnkit.errors import DTypeError, OptionError
from tnkit.rng import generator
from tnkit.solvers import Control, StepInfo

SMALL = DAIN(embedding=8, layers=(32, 16), max_steps=15, batch=128, rate=5e-3)


def sparse(shape: tuple[int, ...], n: int, seed: int = 0) -> tuple[Observations, np.ndarray, np.ndarray]:
    """Noisy entries of a function that is no low-rank tensor, and others with the truth."""
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(size, 3)) * 0.6 for size in shape]
    chances = [rng.dirichlet(np.ones(size) * 0.7) for size in shape]

    def draw(count: int) -> np.ndarray:
        return np.stack([rng.choice(size, size=count, p=p) for size, p in zip(shape, chances, strict=True)], 1)

    def truth(at: np.ndarray) -> np.ndarray:
        return np.tanh(sum(part[at[:, k]] for k, part in enumerate(parts))).sum(1) + 2.0

    at, fresh = draw(n), draw(1500)
    return Observations(at, truth(at) + 0.1 * rng.normal(size=n), shape), fresh, truth(fresh)


def test_it_learns_what_is_not_of_low_rank_and_is_no_worse_than_its_plain_model() -> None:
    observed, fresh, expected = sparse((60, 40, 20), 4000)
    plain = complete(
        observed, method=DAIN(augment=0.0, embedding=8, layers=(32, 16), max_steps=15, batch=128, rate=5e-3)
    )
    done = complete(observed, method=SMALL)
    assert done.heldout_error is not None
    assert plain.heldout_error is not None
    assert done.heldout_error <= plain.heldout_error
    off = np.sqrt(np.mean((done.predict(fresh) - expected) ** 2))
    assert off < 0.6 * expected.std()
    assert len(done.history) == 30
    assert done.tensor is None
    assert done.filled.shape == (60, 40, 20)


def test_influences_are_inner_products_of_gradients() -> None:
    observed, _, _ = sparse((9, 8, 7), 200)
    known, aside = observed.take(torch.arange(observed.n) % 4 > 0), observed.take(torch.arange(observed.n) % 4 == 0)
    run = _Run(SMALL, Control(), aside, 0.5, 2.0)
    model = _Net(observed.shape, SMALL, observed.values, generator(0))
    y = (known.values - 0.5) / 2.0
    found = run.influences(model, known.indices, y)
    last = [model.weights[-1], model.biases[-1]]

    def gradient(indices: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        loss = (model(indices) - values).square().sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, last)])

    whole = gradient(aside.indices, (aside.values - 0.5) / 2.0)
    for k in (0, 5, 17):
        own = gradient(known.indices[k : k + 1], y[k : k + 1])
        assert float(found[k]) == pytest.approx(SMALL.rate * float(own @ whole), rel=1e-9)


def test_entities_gather_the_importance_of_their_cells_and_are_drawn_by_it() -> None:
    at = torch.tensor([[0, 1], [2, 1], [2, 0]])
    first, second = entity_importance(at, torch.tensor([1.0, -2.0, 3.0]), (4, 2))
    assert first.tolist() == [1.0, 0.0, 5.0, 0.0]
    assert second.tolist() == [3.0, 3.0]
    drawn = _drawn(first, 6000, generator(0))
    counts = torch.bincount(drawn, minlength=4) / 6000
    assert counts[1] == counts[3] == 0
    assert float(counts[2]) == pytest.approx(5 / 6, abs=0.03)
    assert set(_drawn(torch.zeros(3), 100, generator(0)).tolist()) == {0, 1, 2}


def test_masks_seeds_time_and_interrupt() -> None:
    x = np.add.outer(np.sin(np.arange(20.0)), np.arange(12.0) / 6)
    mask = np.random.default_rng(0).random(x.shape) < 0.7
    mask[5] = False
    first = complete(np.where(mask, x, np.nan), method=SMALL)
    assert np.array_equal(first.filled[mask], x[mask])
    assert np.array_equal(first.filled, complete(np.where(mask, x, 1e300), mask=mask, method=SMALL).filled)
    assert np.array_equal(first.predict([[3, 4]]), complete(x, mask=mask, method=SMALL).predict([[3, 4]]))
    assert complete(x, mask=mask, method=SMALL, time_limit_s=1e-3).status.name == "time_limit"

    def press(info: StepInfo) -> None:
        if info.step == 2:
            raise KeyboardInterrupt

    stopped = complete(x, mask=mask, method=SMALL, progress=press)
    assert stopped.status.name == "interrupted"
    assert np.isfinite(stopped.filled).all()
    few = complete([1.0, np.nan, 3.0], method=SMALL)
    assert np.isfinite(few.filled).all()
    assert few.heldout_error is None
    constant = complete(np.full((5, 1), 2.0), mask=np.arange(5)[:, None] > 0, method=SMALL)
    assert np.isfinite(constant.filled).all()


def test_a_huge_array_is_never_made_dense() -> None:
    observed, _, _ = sparse((60, 40, 20), 500)
    wide = Observations(observed.indices, observed.values, (10_000, 10_000, 10_000))
    done = complete(wide, method=DAIN(embedding=2, layers=(4,), max_steps=1))
    assert done.predict([[9999, 0, 0]]).shape == (1,)
    with pytest.raises(MemoryError):
        _ = done.filled


def test_refusals() -> None:
    x = np.ones((4, 5))
    with pytest.raises(DTypeError, match="real arrays"):
        complete(x * 1j, method=SMALL)
    with pytest.raises(OptionError, match="fits no format"):
        complete(x, "tt", method="dain")
    with pytest.raises(OptionError, match="takes no weights"):
        complete(x, method=SMALL, weights=x)
    for options in ({"layers": ()}, {"augment": -1.0}, {"rate": 0.0}, {"validation": 0.0}):
        with pytest.raises(OptionError, match="DAIN"):
            DAIN(**options)  # type: ignore[arg-type]
