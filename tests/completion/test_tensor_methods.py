"""Iterations on tensors, on unfoldings and with side information: recovery, what their papers claim, and refusals."""

import time
from typing import Any

import numpy as np
import pytest
import torch

from tnkit.completion import (
    CompletionMethod,
    FullyConnected,
    FunctionalNetwork,
    NonnegativeCP,
    Observations,
    RiemannianCG,
    ScaledGD,
    SideInformation,
    StochasticGCP,
    SubGradient,
    TMac,
    complete,
)
from tnkit.completion.losses import LOSSES
from tnkit.completion.riemannian import _along
from tnkit.completion.tangents import geometry_of
from tnkit.completion.unfolded import mode_spaces, unfolding
from tnkit.errors import DataError, OptionError, ShapeError, TnkitError
from tnkit.formats import as_spec, random_format, random_tensors
from tnkit.rng import generator
from tnkit.solvers import StepInfo

#: Each method with the format it is run in here (None: it fits none), short.
METHODS: dict[str, tuple[CompletionMethod, str | None]] = {
    "riemannian_tt": (RiemannianCG(max_steps=40), "tt"),
    "riemannian_tucker": (RiemannianCG(max_steps=40), "tucker"),
    "scaled_gd": (ScaledGD(max_steps=60), "tucker"),
    "tmac": (TMac(max_ranks=(2,), max_steps=100), None),
    "fctn": (FullyConnected(ranks=(2,), starts=1, max_steps=60), None),
    "nonnegative": (NonnegativeCP(max_steps=40), "cp"),
    "side_information": (SideInformation(time=(0,), strengths=(0.1,), max_steps=30), "cp"),
    "stochastic": (StochasticGCP(max_steps=4, epoch=20), "cp"),
    "functional_network": (FunctionalNetwork(width=16, max_steps=100), "tucker"),
    "subgradient": (SubGradient(max_steps=150), "tt"),
}
X = np.fromfunction(lambda i, j, k: 1.0 + i * j / 20 + np.cos(k / 3), (9, 8, 7))
SEEN = np.random.default_rng(0).random(X.shape) < 0.6


def planted(
    spec: str, shape: tuple[int, ...], rank: int, share: float, noise: float = 0.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The truth of mean square 1, the noisy entries, and the mask."""
    gen = generator(seed)
    x = random_format(spec, shape, rank, rng=gen, dtype=torch.float64).to_dense()
    x = x / x.square().mean().sqrt()
    return x, x + noise * torch.randn(shape, generator=gen, dtype=x.dtype), torch.rand(shape, generator=gen) < share


def error(done: Any, x: torch.Tensor) -> float:
    model = done.tensor.to_dense() if done.tensor is not None else done.filled
    return float((model - x).norm() / x.norm())


def run(name: str, x: Any, mask: Any = None, **options: Any) -> Any:
    method, spec = METHODS[name]
    given = {} if spec is None else {"format": spec, "rank": 2}
    return complete(x, mask=mask, method=method, **{**given, **options})


@pytest.mark.parametrize(
    ("spec", "shape", "share", "method"),
    [
        ("tt", (10, 10, 10, 10), 0.2, RiemannianCG()),
        ("tucker", (24, 24, 24), 0.12, RiemannianCG()),
        ("tucker", (24, 24, 24), 0.2, ScaledGD()),
        ("tucker", (20, 20, 20), 0.3, ScaledGD(damping=1e-2, max_steps=1500)),
    ],
)
def test_exact_data_is_recovered_exactly(spec: str, shape: tuple[int, ...], share: float, method: Any) -> None:
    x, y, mask = planted(spec, shape, 3, share)
    done = complete(y, spec, rank=3, mask=mask, method=method)
    assert error(done, x) < 1e-7
    noisy = planted(spec, shape, 3, share, noise=0.01)[1]
    assert error(complete(noisy, spec, rank=3, mask=mask, method=method), x) < 0.01


@pytest.mark.parametrize(("spec", "method"), [("tt", RiemannianCG()), ("tucker", ScaledGD(max_steps=150))])
def test_ranks_grow_as_held_out_entries_allow(spec: str, method: Any) -> None:
    x, y, mask = planted(spec, (16, 16, 16), 2, 0.4, noise=0.01)
    done = complete(y, spec, mask=mask, method=method)
    assert error(done, x) < 0.01
    assert done.tensor is not None
    assert set(done.tensor.ranks) == {2}


def test_from_coordinates_and_a_mask_the_same() -> None:
    _, y, mask = planted("tt", (10, 9, 8), 2, 0.5)
    observed = Observations(mask.nonzero(), y[mask], (10, 9, 8))
    for name in ("riemannian_tt", "nonnegative", "scaled_gd"):
        assert torch.equal(run(name, y.abs(), mask).filled, run(name, observed.with_values(y[mask].abs())).filled)


def test_scaled_gradients_do_not_know_the_condition_number() -> None:
    def steps_to(error_wanted: float, condition: float) -> int:
        gen = generator(0)
        bases = [torch.linalg.qr(torch.randn(20, 3, generator=gen, dtype=torch.float64))[0] for _ in range(3)]
        core = torch.zeros(3, 3, 3, dtype=torch.float64)
        for k, value in enumerate(torch.logspace(0, -float(np.log10(condition)), 3, dtype=torch.float64)):
            core[k, k, k] = value
        x = torch.einsum("abc,ia,jb,kc->ijk", core, *bases) * 40
        mask = torch.rand(x.shape, generator=gen) < 0.5
        done = complete(x, "tucker", mask=mask, rank=3, method=ScaledGD(tol=0.0, max_steps=400))
        return next(info.step for info in done.history if info.error < error_wanted)

    assert steps_to(1e-6, 10.0) <= 1.5 * steps_to(1e-6, 2.0)


@pytest.mark.parametrize("name", ["tt", "tucker"])
def test_tangents_are_orthogonal_projections_and_retraction_is_first_order(name: str) -> None:
    layout, gen = as_spec(name).layout((6, 5, 4)), generator(0)
    geometry = geometry_of(layout)
    like = torch.zeros((), dtype=torch.float64)
    x = geometry.rooted(random_tensors(layout, (2,) * len(layout.bonds), like, gen))
    z = torch.randn(6, 5, 4, generator=gen, dtype=torch.float64)

    def build(tensors: Any) -> torch.Tensor:
        return layout.build(tensors).to_dense()

    leaves = tuple(t.detach().requires_grad_() for t in x)
    tangent = geometry.tangent(x, torch.autograd.grad((build(leaves) * z).sum(), leaves))
    vector = geometry.joined(x, tangent, with_point=False).to_dense()
    leaves = tuple(t.detach().requires_grad_() for t in x)
    again = geometry.tangent(x, torch.autograd.grad((build(leaves) * vector).sum(), leaves))
    assert torch.allclose(geometry.joined(x, again, with_point=False).to_dense(), vector)  # projecting twice
    assert float(((z - vector) * vector).sum()) == pytest.approx(0.0, abs=1e-9)
    assert float(geometry.inner(x, tangent, tangent)) == pytest.approx(float(vector.square().sum()))
    assert torch.allclose(_along(build, x, tangent), vector)
    off = []
    for t in (1e-3, 1e-4):
        moved = geometry.retract(x, tuple(t * v for v in tangent))
        off.append(float((build(moved) - build(x) - t * vector).norm()))
    assert off[1] < 0.02 * off[0]


def test_spectral_starts_leave_the_diagonal_out() -> None:
    gen = generator(0)
    bases = [torch.linalg.qr(torch.randn(n, 2, generator=gen, dtype=torch.float64))[0] for n in (20, 18, 16)]
    x = torch.einsum("ir,jr,kr->ijk", *bases)
    mask = torch.rand(x.shape, generator=gen) < 0.4
    y, observed = x, Observations.from_dense(x, mask)
    flat = unfolding(observed, 0)
    assert flat.nnz == int(mask.sum())
    assert np.allclose(np.sort(flat.data), np.sort(y[mask].numpy()))
    whole = mode_spaces(Observations.from_dense(x), (2, 2, 2), generator(0))
    part = mode_spaces(observed, (2, 2, 2), generator(0))
    for a, b in zip(whole, part, strict=True):
        assert float(torch.linalg.svdvals(a.T @ b).min()) > 0.7


def test_unfoldings_and_the_connected_network_recover_and_choose_their_ranks() -> None:
    x, y, mask = planted("tucker", (20, 20, 20), 2, 0.4, noise=0.01)
    assert error(complete(y, mask=mask, method="tmac"), x) < 0.02
    x, y, mask = planted("i a b,j a c,k b c->i j k", (14, 14, 14), 2, 0.6)
    done = complete(y, mask=mask, method=FullyConnected(ranks=(1, 2), starts=2))
    assert error(done, x) < 0.02
    assert done.heldout_error is not None
    assert done.heldout_error < 0.05


def test_nonnegative_factors() -> None:
    rng = np.random.default_rng(0)
    x = np.einsum("ir,jr,kr->ijk", *(rng.random((n, 3)) for n in (24, 20, 16)))
    mask = rng.random(x.shape) < 0.2
    mask[3] = False
    done = complete(x + 0.01 * rng.normal(size=x.shape), "cp", mask=mask, method="nonnegative")
    keep = np.arange(24) != 3
    assert np.linalg.norm((np.asarray(done.tensor) - x)[keep]) < 0.02 * np.linalg.norm(x)
    assert all(bool((t >= 0).all()) for t in done.tensor.tensors())  # type: ignore[union-attr]
    negative = complete(-x, "cp", mask=mask, rank=1, method="nonnegative")
    assert np.abs(np.asarray(negative.tensor)).max() < 1e-6  # nothing of at least 0 is nearer


def test_neighbours_tell_what_is_missing() -> None:
    rng = np.random.default_rng(0)
    t = np.linspace(0, 6, 50)
    waves = np.stack([np.sin(t), np.cos(t / 2)], 1)
    x = np.einsum("ir,jr,kr->ijk", waves, rng.normal(size=(20, 2)), rng.normal(size=(10, 2)))
    mask = rng.random(x.shape) < 0.15
    mask[20:22] = False
    y = x + 0.1 * rng.normal(size=x.shape)
    chain = np.eye(50, k=1) + np.eye(50, k=-1)
    found = {}
    for name, method in (
        ("time", SideInformation(time=(0,))),
        ("graph", SideInformation(graphs={0: chain})),
        ("none", SideInformation(time=(0,), strengths=(0.0,))),
    ):
        model = np.asarray(complete(y, "cp", mask=mask, rank=2, method=method).tensor)
        found[name] = np.linalg.norm((model - x)[20:22]) / np.linalg.norm(x[20:22])
    assert found["time"] < 0.3
    assert found["graph"] == pytest.approx(found["time"], rel=1e-6)  # time is a chain
    assert found["none"] > 0.7


def test_losses_are_those_of_their_distributions() -> None:
    m, x = torch.tensor([0.7]), torch.tensor([1.0])
    logs = {
        "poisson": -torch.distributions.Poisson(m).log_prob(x),
        "poisson_log": -torch.distributions.Poisson(m.exp()).log_prob(x),
        "bernoulli": -torch.distributions.Bernoulli(logits=m).log_prob(x),
        "gamma": -torch.distributions.Exponential(1 / m).log_prob(x),
        "gaussian": -torch.distributions.Normal(m, 1.0).log_prob(x) - 0.5 * torch.log(torch.tensor(2 * torch.pi)),
    }
    for name, expected in logs.items():
        assert LOSSES[name].of(m, x).item() == pytest.approx(expected.item(), abs=1e-6), name
    assert LOSSES["huber"].of(torch.tensor(9.0), torch.tensor(0.0)) < 9.0 * 0.25
    for loss in LOSSES.values():
        mean = torch.tensor([0.4])
        assert torch.allclose(loss.mean(loss.from_mean(mean)), mean)


def test_the_right_loss_is_better_than_squares() -> None:
    rng = np.random.default_rng(0)
    mean = 2 * np.einsum("ir,jr,kr->ijk", *(rng.random((n, 2)) ** 3 for n in (25, 20, 20)))
    counts, mask = rng.poisson(mean).astype(float), rng.random(mean.shape) < 0.4

    def off(loss: str) -> float:
        done = complete(counts, "cp", mask=mask, rank=2, method=StochasticGCP(loss=loss, max_steps=30))
        return float(np.linalg.norm(np.asarray(done.tensor) - mean) / np.linalg.norm(mean))

    assert off("poisson") < off("gaussian")
    odds = 2 * np.einsum("ir,jr,kr->ijk", *(rng.normal(size=(n, 1)) for n in (25, 20, 20)))
    binary = (rng.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(float)
    done = complete(binary, "cp", mask=mask, rank=1, method=StochasticGCP(loss="bernoulli", max_steps=30))
    chance, found = (1 / (1 + np.exp(-z)) for z in (odds, np.asarray(done.tensor)))
    assert np.sqrt(np.mean((chance - found) ** 2)) < 0.1


def test_outliers_and_a_rank_that_is_too_large_do_no_harm() -> None:
    x, y, mask = planted("tt", (14, 14, 14), 2, 0.5, noise=0.01)
    gen = generator(1)
    hit = torch.rand(x.shape, generator=gen) < 0.1
    spoilt = torch.where(hit, y + 10.0, y)
    for rank in (2, 4):
        assert error(complete(spoilt, "tt", mask=mask, rank=rank, method=SubGradient(max_steps=1000)), x) < 0.05
    assert error(complete(spoilt, "tt", mask=mask, rank=2), x) > 0.1  # least squares


def test_networks_of_the_positions_are_smooth() -> None:
    i, j = np.mgrid[:30, :30] / 30
    x = np.sin(6 * i * j) + np.cos(5 * i)
    mask = np.random.default_rng(0).random(x.shape) < 0.2
    done = complete(x, mask=mask, method=FunctionalNetwork(width=48, max_steps=400))
    assert np.linalg.norm(done.filled - x) < 0.08 * np.linalg.norm(x)
    assert done.tensor is not None
    assert done.tensor.name == "tucker"


@pytest.mark.parametrize("name", METHODS)
def test_observed_entries_stay_and_what_is_masked_does_not_matter(name: str) -> None:
    first = run(name, np.where(SEEN, X, np.nan))
    assert np.isfinite(first.filled).all()
    assert np.array_equal(first.filled[SEEN], X[SEEN])
    again = run(name, np.where(SEEN, X, 1e300), SEEN)
    assert np.array_equal(first.filled, again.filled)
    assert first.heldout_error is not None
    single = run(name, np.where(SEEN, X, np.nan).astype(np.float32))
    assert single.filled.dtype == np.float32
    assert np.isfinite(single.filled).all()


@pytest.mark.parametrize("name", METHODS)
def test_missing_slices_size_one_modes_constants_and_zeros(name: str) -> None:
    mask = SEEN.copy()
    mask[4] = False
    assert np.isfinite(run(name, X, mask).filled).all()
    thin = X[:, :1]
    options = {} if METHODS[name][1] is None else {"rank": 1}
    assert np.isfinite(run(name, thin, SEEN[:, :1], **options).filled).all()
    for value in (0.0, 2.0):
        filled = run(name, np.full((6, 5, 4), value), SEEN[:6, :5, :4], **options).filled
        assert np.isfinite(filled).all()


@pytest.mark.parametrize("name", METHODS)
def test_time_limit_and_interrupt(name: str) -> None:
    rng = np.random.default_rng(0)
    x, mask = rng.random((25, 25, 10)), rng.random((25, 25, 10)) < 0.5
    begun = time.monotonic()
    done = run(name, x, mask, time_limit_s=1e-3)
    assert time.monotonic() - begun < 10
    assert done.status.name == "time_limit"
    assert np.isfinite(done.filled).all()

    def press(info: StepInfo) -> None:
        if info.step == 2:
            raise KeyboardInterrupt

    done = run(name, x, mask, progress=press)
    assert done.status.name == "interrupted"
    assert np.isfinite(done.filled).all()


@pytest.mark.parametrize("name", METHODS)
def test_complex_values_are_refused(name: str) -> None:
    with pytest.raises(TnkitError, match="real arrays"):
        run(name, X * 1j, SEEN)


def test_refusals() -> None:
    for wrong in ("scaled_gd", "nonnegative", "side_information", "functional_network"):
        with pytest.raises(OptionError, match="alone"):
            complete(X, "tt", rank=1, mask=SEEN, method=wrong)
    with pytest.raises(OptionError, match="Name one of them"):
        complete(X, "cp", rank=1, mask=SEEN, method="riemannian")
    with pytest.raises(OptionError, match="fits no format"):
        complete(X, "tt", mask=SEEN, method="tmac")
    with pytest.raises(DataError, match="0 and 1"):
        complete(X, "cp", rank=1, mask=SEEN, method=StochasticGCP(loss="bernoulli"))
    with pytest.raises(OptionError, match="poisson_log"):
        StochasticGCP(loss="cauchy")
    with pytest.raises(ShapeError, match=r"give \(9, 9\)"):
        complete(X, mask=SEEN, method=SideInformation(graphs={0: np.eye(3)}))
    with pytest.raises(OptionError, match="symmetric"):
        complete(X, mask=SEEN, method=SideInformation(graphs={0: np.eye(9, k=1)}))
    with pytest.raises(OptionError, match="there are 0"):
        complete(X, mask=SEEN, method=SideInformation(time=(3,)))
    with pytest.raises(OptionError, match="choose one"):
        SideInformation(graphs={0: np.eye(9)}, time=(0,))
    with pytest.raises(ShapeError, match="2 to 6 modes"):
        complete(np.ones((2,) * 7), method="fctn")
    for broken in (
        lambda: RiemannianCG(max_steps=0),
        lambda: ScaledGD(step=3.0),
        lambda: TMac(max_ranks=()),
        lambda: TMac(tol=0.0),
        lambda: FullyConnected(rho=0.0),
        lambda: FullyConnected(ranks=(0,)),
        lambda: NonnegativeCP(passes=0),
        lambda: SideInformation(strengths=()),
        lambda: StochasticGCP(rate=0.0),
        lambda: FunctionalNetwork(width=0),
        lambda: SubGradient(small=0.0),
    ):
        with pytest.raises(OptionError):
            broken()
