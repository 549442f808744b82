"""Fit what a proposer asks for: here, or in worker processes. What comes out is the same.

Each fit draws its random numbers from a generator of its own, seeded by the search and the graph, and proposals are
taken in chunks of a fixed length, so neither the number of workers nor their speed changes anything.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf, isfinite
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self
from zlib import crc32

import torch
from numpy.typing import NDArray

from tnkit.errors import OptionError
from tnkit.search.graph import Graph
from tnkit.search.objective import DenseObjective, Objective, Trial
from tnkit.search.proposer import Proposal
from tnkit.solvers import Control

__all__ = ["CHUNK", "Evaluator", "Here", "Workers", "evaluator"]

#: Proposals that are fitted without a look at each other's results.
CHUNK = 4


def fitted(objective: Objective, proposal: Proposal, seed: int) -> Trial:
    """One fit with its own random numbers."""
    known = f"{proposal.graph.key} {proposal.steps} {proposal.starts} {proposal.free_ranks}"
    known += f" {proposal.number}" if proposal.number else ""
    objective.rng = torch.Generator(objective.rng.device).manual_seed(seed ^ crc32(known.encode()))
    if proposal.free_ranks:
        return objective.fit_tree(proposal.graph, proposal.parent)
    return objective.fit(proposal.graph, proposal.parent, steps=proposal.steps, starts=proposal.starts)


class Evaluator(Protocol):
    """Where fits are done."""

    def __call__(self, proposals: Sequence[Proposal]) -> Iterator[Trial]:
        """The trials, in order, as they come."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """End at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Here:
    """In this process.

    Attributes:
        objective: that fits.
        seed: of the search.
    """

    objective: Objective
    seed: int

    def __call__(self, proposals: Sequence[Proposal]) -> Iterator[Trial]:
        """One after the other."""
        for proposal in proposals:
            yield fitted(self.objective, proposal, self.seed)

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """Nothing to do."""


def evaluator(objective: Objective, seed: int, workers: int | None) -> Evaluator:
    """Here, or in so many processes.

    Raises:
        OptionError: a number of workers that is none, or an objective that cannot be sent to other processes.
    """
    if workers is None:
        return Here(objective, seed)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise OptionError(f"workers={workers!r} must be a whole number of 1 or more, or None for this process alone.")
    return Workers(objective, seed, workers)


class Workers:
    """In processes of their own, each with one thread and a copy of the objective.

    A script that uses them must do its work under `if __name__ == "__main__":`, as for all of `multiprocessing`. Ctrl-C
    reaches the search alone, which then ends its workers.
    """

    def __init__(self, objective: Objective, seed: int, count: int) -> None:
        self.objective, self.count = objective, count
        self.parcel = _packed(objective, seed)
        self.pool: Any = None

    def __enter__(self) -> Self:
        """Start them; they do not hear Ctrl-C from the first moment on."""
        with _deaf():
            self.pool = multiprocessing.get_context("spawn").Pool(self.count, _open, (self.parcel,))
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """End them, whatever they do."""
        self.pool.terminate()
        self.pool.join()

    def __call__(self, proposals: Sequence[Proposal]) -> Iterator[Trial]:
        """The trials, in order."""
        left = self.objective.control.deadline - monotonic()
        for plain in self.pool.imap(_fit, [(_told(p), left) for p in proposals]):
            graph, arrays, error, seconds, effort = plain
            tensors = tuple(torch.from_numpy(a).to(self.objective.rng.device) for a in arrays)
            yield Trial(Graph.from_json(graph), tensors, error, seconds, effort=effort)


def _told(proposal: Proposal) -> dict[str, Any]:
    """A proposal in plain values."""
    parent = proposal.parent
    start = (
        None if parent is None else (parent.graph.to_json(), [t.cpu().numpy() for t in parent.tensors], parent.error)
    )
    return {
        "graph": proposal.graph.to_json(),
        "start": start,
        "free_ranks": proposal.free_ranks,
        "steps": proposal.steps,
        "starts": proposal.starts,
        "number": proposal.number,
    }


def _packed(objective: Objective, seed: int) -> bytes:
    """An objective for the workers, through a pipe and never a file.

    Raises:
        OptionError: it holds what no other process can be sent.
    """
    plain: object
    if isinstance(objective, DenseObjective):
        o = objective
        plain = _Dense(o.x.cpu().numpy(), o.norm, o.eps, o.max_params, o.warm)
    else:
        plain = objective.portable()
    try:
        return pickle.dumps((plain, seed))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise OptionError(
            f"workers= needs an objective that can be sent to other processes; {type(objective).__name__} cannot "
            f"({error}). Give it functions and classes that stand at the top of a module (no lambda, nothing defined "
            "inside a function), or leave workers= out."
        ) from None


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started here ignore Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set it; _open does so later
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(frozen=True, slots=True, eq=False)
class _Dense:
    """What a dense objective is made from."""

    x: NDArray[Any]
    norm: float
    eps: float | None
    max_params: int | None
    warm: bool

    def objective(self) -> DenseObjective:
        return DenseObjective(
            torch.from_numpy(self.x),
            self.norm,
            eps=self.eps,
            max_params=self.max_params,
            rng=torch.Generator(),
            control=Control(),
            warm=self.warm,
            bounds=False,
        )


#: The objective of a worker process and the seed of its search; it serves one search.
_mine: list[tuple[Objective, int]] = []


def _open(parcel: bytes) -> None:
    """What a worker does first; Ctrl-C is for the search."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    plain, seed = pickle.loads(parcel)
    objective = plain.objective() if isinstance(plain, _Dense) else plain
    _mine.append((objective, seed))


def _fit(task: tuple[dict[str, Any], float]) -> tuple[dict[str, Any], list[NDArray[Any]], float, float, int]:
    told, left = task
    objective, seed = _mine[-1]
    objective.control = replace(Control(), deadline=monotonic() + left if isfinite(left) else inf)
    start = told.pop("start")
    parent = (
        None if start is None else Trial(Graph.from_json(start[0]), tuple(map(torch.from_numpy, start[1])), start[2])
    )
    trial = fitted(objective, Proposal(**{**told, "graph": Graph.from_json(told["graph"]), "parent": parent}), seed)
    return trial.graph.to_json(), [t.numpy() for t in trial.tensors], trial.error, trial.seconds, trial.effort
