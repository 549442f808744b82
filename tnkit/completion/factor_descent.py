"""What iterations on the tensors of a format share: scaling, what is held out, ranks by it, the end on all entries.

An iteration is given the observed entries it may use and says how it starts and what a step is; here it is run for one
rank after the other while the held-out error falls, and at the best rank on everything.

Example:
    >>> import torch
    >>> from tnkit.completion import Observations
    >>> from tnkit.completion.factor_descent import values_at
    >>> from tnkit.formats import as_spec
    >>> layout = as_spec("lowrank").layout((2, 2))
    >>> values_at(layout, (torch.ones(2, 1), torch.ones(1, 2)), torch.tensor([[0, 1]])).tolist()
    [1.0]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from time import monotonic
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem
from tnkit.completion.holdout import split
from tnkit.completion.observations import Observations
from tnkit.errors import DTypeError, OptionError
from tnkit.formats import Layout
from tnkit.solvers import CONVERGED, INTERRUPTED, REACHED, TIME_LIMIT, Status, StepInfo, iterate

__all__ = ["Descent", "Steps", "fit_tensors", "gradients", "one_of", "real_values", "values_at"]

S = TypeVar("S")
Tensors = tuple[Tensor, ...]
#: A rank counts as better where the held-out error falls by this share.
GAIN = 0.02
#: A held-out error beyond this may be that of a local minimum: another start is tried.
SOUND = 0.4


class Descent(Protocol[S]):
    """An iteration on states of its own, for given entries."""

    def start(self, ranks: tuple[int, ...], before: Tensors | None, /) -> S:
        """The first state at these ranks; `before` is the best network of smaller ranks (at the end, of the same)."""

    def step(self, state: S, number: int, /) -> S:
        """The next one."""

    def tensors(self, state: S, /) -> Tensors:
        """The network of a state."""


@dataclass(frozen=True, slots=True)
class Steps:
    """How long an iteration runs.

    Attributes:
        max_steps: steps of one run.
        tol: a run ends when the error has fallen by less than this share of itself over `patience` steps.
        patience: over how many.
        holdout: share of the entries held out.
        max_rank: ranks are tried up to this where none is given.
        refit: steps on all entries at the end.
        every: the error is measured after so many steps.
        starts: at each rank at the most; there is another where held-out entries are met much worse than the others.
    """

    max_steps: int
    tol: float
    patience: int
    holdout: float
    max_rank: int
    refit: int
    every: int = 1
    starts: int = 1

    def require(self, who: str) -> None:
        """Refuse numbers outside their ranges.

        Raises:
            OptionError: so it is.
        """
        whole = min(self.max_steps, self.patience, self.max_rank, self.every, self.starts) >= 1
        if not (whole and self.tol >= 0 and 0 <= self.holdout < 1):
            raise OptionError(
                f"{who}: max_steps, patience, max_rank and starts must be 1 or more, tol at least 0, holdout "
                "from 0 to below 1."
            )


def values_at(layout: Layout, tensors: Sequence[Tensor], indices: Tensor) -> Tensor:
    """(N,) the network's values at some indices; autograd goes through."""
    return layout.build(tensors).at(indices)


def gradients(
    layout: Layout, tensors: Sequence[Tensor], indices: Tensor, loss: Callable[[Tensor], Tensor]
) -> tuple[float, Tensors]:
    """A loss of the values at some indices, and its gradients by the tensors.

    Args:
        layout: of the network.
        tensors: of it; not changed.
        indices: (N, d).
        loss: from (N,) values to a number.
    """
    leaves = tuple(t.detach().requires_grad_() for t in tensors)
    with torch.enable_grad():
        value = loss(values_at(layout, leaves, indices))
        found = torch.autograd.grad(value, leaves, allow_unused=True)
    return float(value.detach()), tuple(
        torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)
    )


def real_values(obs: Observations, who: str) -> Observations:
    """The observations, if they are real.

    Raises:
        DTypeError: complex values.
    """
    if obs.values.is_complex():
        raise DTypeError(f'method "{who}" takes real arrays; complete real and imaginary part apart, or use "als".')
    return obs


def one_of(problem: CompletionProblem, method: CompletionMethod, names: Sequence[str]) -> Layout:
    """The layout, if it is of a format that the method takes.

    Raises:
        OptionError: another one.
    """
    layout = problem.layout
    assert layout is not None
    if layout.name not in names or layout.tensorization is not None:
        told = " and ".join(f'"{name}"' for name in names)
        raise OptionError(
            f'method "{method.name}" fits {told}, and "{layout.name}" was asked for. Name one of them as format.'
        )
    return layout


@dataclass(slots=True, eq=False)
class _Best(Generic[S]):
    tensors: Tensors | None = None
    ranks: tuple[int, ...] = ()
    error: float = inf


def fit_tensors(
    problem: CompletionProblem,
    layout: Layout,
    make: Callable[[Observations], Descent[S]],
    steps: Steps,
    measure: Callable[[Tensors, Observations], float] | None = None,
    scaled: bool = True,
) -> CompletionFit:
    """Run an iteration, for one rank after the other where none is given.

    Args:
        problem: what is to be completed.
        layout: of the network.
        make: the iteration on some of the entries, which are of mean square 1.
        steps: how long.
        measure: the error of a network at some entries; the relative one by default.
        scaled: whether values are divided by their root mean square.
    """
    obs = problem.observations
    scale = root_mean_square(obs) if scaled else 1.0
    if scale == 0:
        zeros = tuple(obs.values.new_zeros(s) for s in layout.shapes(problem.ranks or (1,) * len(layout.bonds)))
        return CompletionFit(zeros, None, 0.0, 0.0, CONVERGED)
    whole = obs.with_values(obs.values / scale)
    held = split(whole, steps.holdout, problem.rng)
    known, aside = (whole, None) if held is None else (whole.take(~held), whole.take(held))
    judge = measure or _relative(layout)
    history: list[StepInfo] = []
    begun, status = monotonic(), CONVERGED
    best: _Best[S] = _Best()

    def hear(info: StepInfo) -> None:
        history.append(StepInfo(len(history) + 1, info.error, monotonic() - begun))
        if problem.control.progress is not None:
            problem.control.progress(history[-1])

    def descend(
        entries: Observations, ranks: tuple[int, ...], before: Tensors | None, most: int
    ) -> tuple[Tensors, float, Status]:
        run = make(entries)
        patience = max(1, steps.patience // steps.every)
        control = replace(
            problem.control,
            max_steps=-(-most // steps.every),
            tol=steps.tol,
            patience=patience,
            target=1e-12,
            progress=hear,
        )
        seen = entries if aside is None or entries is whole else aside

        def step(state: S, number: int) -> tuple[S, float]:
            for inner in range(steps.every):
                state = run.step(state, (number - 1) * steps.every + inner + 1)
                if problem.control.out_of_time:
                    break
            return state, judge(run.tensors(state), seen)

        start = run.start(ranks, before)
        found = iterate(step, start, control, start_error=judge(run.tensors(start), seen))
        return run.tensors(found.value), found.error, found.status

    caps = layout.caps
    ranks = [problem.ranks] if problem.ranks is not None else []
    if not ranks:
        ranks = list(dict.fromkeys(tuple(min(r, c) for c in caps) for r in range(1, steps.max_rank + 1)))
    if aside is None:
        ranks = ranks[:1]
    misses = 0
    for rank in ranks:
        gained = False
        for number in range(steps.starts):
            before = best.tensors if number == 0 else None  # a fresh start where the last network led nowhere
            tensors, error, status = descend(known, rank, before, steps.max_steps)
            if best.tensors is None or error < (1 - GAIN) * best.error:
                best.tensors, best.ranks, best.error, gained = tensors, rank, error, True
            stopped = status in (INTERRUPTED, TIME_LIMIT) or problem.control.out_of_time
            sound = aside is None or error <= min(SOUND, 2 * judge(tensors, known))
            if stopped or sound or (gained and len(ranks) > 1):
                break
        misses = 0 if gained else misses + 1
        if stopped or misses >= 2 or best.error < 1e-9:
            break
    assert best.tensors is not None
    stopped = status in (INTERRUPTED, TIME_LIMIT)
    if aside is not None and not stopped and steps.refit and not problem.control.out_of_time:
        last, error, ended = descend(whole, best.ranks, best.tensors, steps.refit)
        status = ended if ended in (INTERRUPTED, TIME_LIMIT) else status
        best.tensors = last if isfinite(error) else best.tensors
    share = scale ** (1 / len(best.tensors))
    return CompletionFit(
        tuple((t * share).to(obs.values.dtype) for t in best.tensors),
        None,
        None if aside is None or not isfinite(best.error) else best.error,
        _relative(layout)(best.tensors, whole),
        CONVERGED if status is REACHED else status,
        tuple(history),
    )


def root_mean_square(obs: Observations) -> float:
    """Of the values by weight; 0 where all that counts is 0."""
    size = obs.values.abs() if obs.weights is None else obs.values.abs() * (obs.weights > 0)
    largest = float(size.max())
    if largest == 0:
        return 0.0
    square = (size / largest).square()
    mean = square.mean() if obs.weights is None else (square * obs.weights).sum() / obs.weights.sum()
    return largest * float(mean.sqrt())


def _relative(layout: Layout) -> Callable[[Tensors, Observations], float]:
    def error(tensors: Tensors, obs: Observations) -> float:
        w = 1.0 if obs.weights is None else obs.weights
        with torch.no_grad():
            off = (values_at(layout, tensors, obs.indices) - obs.values).abs().square() * w
            size = (obs.values.abs().square() * w).sum()
        return float((off.sum() / size.clamp_min(torch.finfo(size.dtype).tiny)).sqrt())

    return error
