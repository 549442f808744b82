"""Search with any objective: a differentiable loss, observed entries, or one of your own.

Example:
    >>> import torch
    >>> from tnkit.search import GreedyTN
    >>> from tnkit.search.loss import LossObjective
    >>> target = torch.ones(4, 5, 6, dtype=torch.float64)
    >>> objective = LossObjective(lambda x: (x - target).square().mean(), (4, 5, 6), target=1e-8)
    >>> found = run_objective(objective, GreedyTN())
    >>> found.best.graph.n_params, found.best.error < 1e-8
    (15, True)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tnkit.errors import BudgetError
from tnkit.search.evaluate import evaluator
from tnkit.search.objective import Objective, Trial
from tnkit.search.proposer import Proposer, Setting
from tnkit.search.runner import Limits, Run, converse, worth
from tnkit.solvers import Status

__all__ = ["ObjectiveResult", "run_objective"]


@dataclass(frozen=True, slots=True, eq=False)
class ObjectiveResult:
    """What a search with an objective gives.

    Attributes:
        best: the trial with the least score.
        front: trials by size, each with a smaller error than all smaller ones.
        evaluations: fits that were done.
        elapsed_s: seconds.
        status: how it ended.
        tried: all trials, in the order in which they were fitted.
    """

    best: Trial
    front: tuple[Trial, ...]
    evaluations: int
    elapsed_s: float
    status: Status
    tried: tuple[Trial, ...] = ()


def run_objective(
    objective: Objective,
    proposer: Proposer,
    *,
    max_evaluations: int | None = None,
    heard: Callable[[Trial], bool | None] | None = None,
    prune: bool = True,
    workers: int | None = None,
) -> ObjectiveResult:
    """Let a proposer search with an objective.

    Args:
        objective: fits graphs; its control has the deadline, its rng the random numbers.
        proposer: what is tried.
        max_evaluations: fits at the most.
        heard: called with the best trial after each fit; if it gives True, that is enough.
        prune: whether graphs that are no smaller than the best are left out.
        workers: processes that fit; None for this one. A loss must then stand at the top of a module, and scripts do
            their work under `if __name__ == "__main__":`.

    Raises:
        OptionError: workers for an objective that cannot be sent to other processes.
        BudgetError: the proposer tried nothing that is allowed.
    """
    begun = time.monotonic()
    limits = Limits(objective.eps, objective.max_params, max_evaluations, prune=prune)
    state = Run(objective, proposer, limits)
    seed = int(torch.randint(2**31, (), generator=objective.rng, device=objective.rng.device))
    rng = torch.Generator(objective.rng.device).manual_seed(seed)

    def told() -> bool:
        return heard is not None and state.best is not None and heard(state.best) is True

    talk = proposer.propose(Setting(objective, rng, {}))
    with evaluator(objective, seed, workers) as fits:
        status = converse(state, talk, fits, objective.control, begun, told)
    if state.best is None:
        raise BudgetError(f"{proposer.name} tried nothing that is allowed. Allow more parameters or time.")
    elapsed = time.monotonic() - begun
    front, tried = tuple(worth(state.order)), tuple(state.order)
    return ObjectiveResult(state.best, front, state.evaluations, elapsed, status, tried)
