"""The runner: fits what a proposer asks for, once; keeps the best, the front and the count; stops in time.

Nothing that was fitted is lost: Ctrl-C ends the search with what there is, and a file holds every trial. A search that
is resumed asks the same questions again, and what the file knows is answered from it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

import torch
from torch import Tensor

from tnkit.arrays import HALF
from tnkit.decompose import Fit, Target, relative_error, scaled
from tnkit.decompose.rank_search import measured
from tnkit.errors import BudgetError, FileFormatError, OptionError, ShapeError
from tnkit.files import PathLikeStr
from tnkit.report import FitReport
from tnkit.search.archive import read_trials, write_trials
from tnkit.search.front import Candidate, SearchResult, pareto_front
from tnkit.search.graph import Graph
from tnkit.search.objective import DenseObjective, Trial, replaced
from tnkit.search.proposer import Conversation, Proposal, Proposer, Setting
from tnkit.solvers import (
    CONVERGED,
    EPS_NOT_REACHED,
    INTERRUPTED,
    MAX_STEPS,
    REACHED,
    TIME_LIMIT,
    Control,
    Status,
    StepInfo,
)
from tnkit.tensorize import Tensorization

__all__ = ["Limits", "run_search"]

_SAVE_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """When a search ends.

    Attributes:
        eps: the relative error that is asked.
        max_params: entries that may be stored.
        max_evaluations: fits at the most.
        warm: whether fits start from their parents.
        prune: whether graphs whose bound says that they cannot help are left out.
    """

    eps: float | None = None
    max_params: int | None = None
    max_evaluations: int | None = None
    warm: bool = True
    prune: bool = True


@dataclass(slots=True)
class _Run:
    """The state of a search; it changes."""

    objective: DenseObjective
    proposer: Proposer
    limits: Limits
    known: dict[str, Trial] = field(default_factory=dict)
    order: list[Trial] = field(default_factory=list)
    pruned: int = 0
    evaluations: int = 0
    cached: int = 0
    path: Path | None = None
    saved_at: float = 0.0

    @property
    def best(self) -> Trial | None:
        """By what is asked."""
        return min(self.order, key=self.objective.score, default=None)

    def full(self) -> bool:
        """Whether no more fits are allowed."""
        most = self.limits.max_evaluations
        return most is not None and self.evaluations >= most

    def answer(self, proposal: Proposal) -> Trial | None:
        """The trial of a proposal, from memory if it is known; None if it cannot help."""
        graph = proposal.graph
        key = ("" if not proposal.free_ranks else "free " if proposal.parent is None else "polished ") + graph.key
        if key in self.known:
            self.cached += 1
            return self.known[key]
        if not proposal.free_ranks:
            most = self.limits.max_params
            if most is not None and graph.n_params > most:
                return None
            if self.limits.prune and self.hopeless(graph):
                self.pruned += 1
                return None
        if proposal.free_ranks:
            trial = self.objective.fit_tree(graph, proposal.parent)
        else:
            trial = self.objective.fit(graph, proposal.parent, steps=proposal.steps, starts=proposal.starts)
        self.evaluations += 1
        trial = replaced(trial, self.proposer.name)
        self.known[key] = trial
        self.known.setdefault(trial.graph.key, trial)
        self.order.append(trial)
        return trial

    def hopeless(self, graph: Graph) -> bool:
        """Whether the graph is no smaller than the best that reaches eps; proposers use the bounds of the error."""
        best = self.best
        if best is None or not self.objective.reached(best.error):
            return False
        return graph.n_params >= best.graph.n_params

    def save(self, *, force: bool = False) -> None:
        """Write every trial, now and then."""
        if self.path is not None and (force or time.monotonic() - self.saved_at > _SAVE_EVERY_S):
            write_trials(self.path, self.known, self.objective.shape, _question(self.limits))
            self.saved_at = time.monotonic()


def run_search(
    x: Tensor,
    norm: float,
    proposer: Proposer,
    limits: Limits,
    *,
    shape: tuple[int, ...] | None = None,
    rng: torch.Generator,
    control: Control,
    dtype: torch.dtype | None = None,
    asked: str = "",
    save: PathLikeStr | None = None,
) -> SearchResult:
    """Search.

    Args:
        x: engine tensor.
        norm: of it.
        proposer: what is tried.
        limits: what is asked.
        shape: a reshaping of the array over whose modes the graphs are.
        rng: random numbers.
        control: deadline and progress.
        dtype: of the results, where it is a half type.
        asked: the target in words.
        save: a file that keeps all trials; if it is there, the search goes on from it.

    Raises:
        ShapeError: a shape of another number of entries, or of less than two modes above 1.
        OptionError: neither eps nor a size is asked.
        BudgetError: nothing that was tried keeps the size.
    """
    begun = time.monotonic()
    if limits.eps is None and limits.max_params is None:
        raise OptionError("A search needs eps= or budget=.")
    plan = Tensorization.start(x.shape).reshape([n for n in (x.shape if shape is None else shape) if n > 1] or [1])
    safe, safe_norm, factor = scaled(x, norm)
    if safe_norm == 0.0 or len(plan.out_shape) < 2:
        raise ShapeError(f"A search over graphs needs two modes above 1 and a norm above 0; seen {tuple(x.shape)}.")
    least = sum(plan.out_shape)
    if limits.max_params is not None and limits.max_params < least:
        raise BudgetError(
            f"A network over {plan.out_shape} takes {least} entries at rank 1; {limits.max_params} are allowed."
        )
    unit = safe / safe_norm
    objective = DenseObjective(
        plan.apply(unit).contiguous(),
        1.0,
        eps=limits.eps,
        max_params=limits.max_params,
        rng=rng,
        control=control,
        warm=limits.warm,
    )
    path = None if save is None else Path(save)
    state = _Run(objective, proposer, limits, path=path, saved_at=time.monotonic())
    if path is not None and path.exists():
        state.known = read_trials(path, objective.shape, x.dtype, x.device, _question(limits))
        state.order = list({id(t): t for t in state.known.values()}.values())
        _require_same(path, objective, state.order)
    bounds: dict[str, int] = {}
    status = _converse(state, proposer.propose(Setting(objective, rng, bounds)), control, begun)
    state.save(force=True)
    if not state.order:
        raise BudgetError(f"{proposer.name} tried nothing that fits ({asked}). Allow more parameters or time.")

    def report(trial: Trial) -> FitReport:
        layout = replace(trial.graph.layout(), shape=plan.shape, tensorization=None if plan.is_identity else plan)
        value = layout.build(trial.tensors)
        if dtype in HALF:
            value = value.to(dtype)
        error = relative_error(unit, value, norm=1.0)
        missed = limits.eps is not None and error > limits.eps * (1 + 1e-9)
        ended = EPS_NOT_REACHED if missed else REACHED if limits.eps is not None else CONVERGED
        why = f"{trial.by}: {trial.graph}"
        fit = Fit(trial.tensors, error)
        return FitReport(
            value * (safe_norm * factor),
            error,
            fit.error_kind,
            ended,
            trial.by or proposer.name,
            why,
            trial.seconds,
            (),
            asked,
        )

    tried = tuple(Candidate(str(t.graph), report(t)) for t in _worth(state.order))
    best = min(tried, key=lambda c: _score(c.fit, limits))
    label = f"{best.label}, of {state.evaluations} fits ({state.pruned} left out by bounds, {state.cached} known)"
    best = Candidate(best.label, replace(best.fit, why=f"{best.fit.why}; {label}", elapsed_s=time.monotonic() - begun))
    return SearchResult(
        pareto_front(tried),
        best,
        tried,
        (),
        time.monotonic() - begun,
        status,
        state.evaluations,
        state.pruned,
        tuple(sorted(bounds.items())),
        limits.eps,
    )


def _question(limits: Limits) -> str:
    """What a file of trials is for."""
    return f"eps={limits.eps}, max_params={limits.max_params}"


def _require_same(path: Path, objective: DenseObjective, trials: list[Trial]) -> None:
    """Refuse trials of another array: the error of the best of them must be what it was."""
    if trials:
        best = min(trials, key=lambda t: t.error)
        error = measured(objective.problem(best.graph, Target(eps=objective.eps)), best.tensors)
        if abs(error - best.error) > 1e-3 * best.error + 1e-5:
            raise FileFormatError(
                f"{path}: is a search of another array: its best error is {best.error:.3g}, here {error:.3g}. "
                "Give another file."
            )


def _worth(trials: list[Trial]) -> list[Trial]:
    """The trials that no other one beats in both size and error."""
    front: list[Trial] = []
    for t in sorted(trials, key=lambda t: (t.graph.n_params, t.error)):
        if not front or t.error < front[-1].error:
            front.append(t)
    return front


def _converse(state: _Run, talk: Conversation, control: Control, begun: float) -> Status:
    """Ask, fit, tell; why it ended."""
    answers: list[Trial | None] | None = None
    try:
        while True:
            try:
                asks = next(talk) if answers is None else talk.send(answers)
            except StopIteration:
                return CONVERGED
            answers = []
            for proposal in asks:
                answers.append(state.answer(proposal))
                state.save()
                best = state.best
                if control.progress is not None and best is not None:
                    control.progress(StepInfo(max(state.evaluations, 1), best.error, time.monotonic() - begun))
                if control.out_of_time:
                    return TIME_LIMIT
                if state.full():
                    return MAX_STEPS
    except KeyboardInterrupt:
        return INTERRUPTED


def _score(fit: FitReport, limits: Limits) -> tuple[float, float]:
    if limits.eps is None:
        return (fit.rel_error, fit.n_params)
    return (fit.n_params if fit.rel_error <= limits.eps * (1 + 1e-9) else inf, fit.rel_error)
