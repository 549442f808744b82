"""The runner: fits what a proposer asks for, once; keeps the best, the front and the count; stops in time.

Nothing that was fitted is lost: Ctrl-C ends the search with what there is, and a file holds every trial. A search that
is resumed asks the same questions again, and what the file knows is answered from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
from tnkit.search.evaluate import CHUNK, Evaluator, evaluator
from tnkit.search.front import Candidate, SearchResult, pareto_front
from tnkit.search.graph import Graph
from tnkit.search.objective import DenseObjective, Objective, Trial, replaced
from tnkit.search.proofs import Proofs, proofs
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

__all__ = ["Limits", "Run", "converse", "run_search", "worth"]

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
        strict: where eps and a size are asked, whether what misses eps is of no interest.
    """

    eps: float | None = None
    max_params: int | None = None
    max_evaluations: int | None = None
    warm: bool = True
    prune: bool = True
    strict: bool = False


@dataclass(slots=True)
class Run:
    """The state of a search; it changes."""

    objective: Objective
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

    def known_answer(self, proposal: Proposal) -> tuple[bool, Trial | None]:
        """Whether no fit is needed, and then what is told: what memory holds, or None where it cannot help."""
        graph, before = proposal.graph, self.known.get(_key(proposal))
        if before is not None and (proposal.answered(before) or self.objective.reached(before.error)):
            self.cached += 1
            return True, before
        if proposal.free_ranks:
            return False, None
        if self.limits.max_params is not None and graph.n_params > self.limits.max_params:
            return True, None
        if self.limits.prune and self.hopeless(graph):
            self.pruned += 1
            return True, None
        return False, None

    def keep(self, proposal: Proposal, trial: Trial) -> Trial:
        """Remember a fit; the better one, where the graph was fitted before."""
        key = _key(proposal)
        before, trial = self.known.get(key), replaced(trial, self.proposer.name)
        self.evaluations += 1
        if before is not None and before.error <= trial.error:
            trial = replace(before, effort=trial.effort)
        self.known[key] = trial
        self.known.setdefault(trial.graph.key, trial)
        self.order.append(trial)
        return trial

    def answers(self, asks: list[Proposal], fits: Evaluator) -> Iterator[list[Trial | None]]:
        """What is told, as far as it is known, after each fit; memory and bounds are looked at once for each chunk."""
        told: list[Trial | None] = [None] * len(asks)
        todo = list(range(len(asks)))
        while todo:
            chunk: dict[str, int] = {}
            while todo and len(chunk) < CHUNK and _key(asks[todo[0]]) not in chunk:
                at = todo.pop(0)
                done, told[at] = self.known_answer(asks[at])
                if not done:
                    chunk[_key(asks[at])] = at
            most = self.limits.max_evaluations
            places = list(chunk.values())[: None if most is None else max(most - self.evaluations, 0)]
            for at, trial in zip(places, fits([asks[at] for at in places]), strict=True):
                told[at] = self.keep(asks[at], trial)
                yield told
            if len(places) < len(chunk):
                return
        yield told

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
    workers: int | None = None,
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
        workers: processes that fit; None for this one. It does not change what is found.

    Raises:
        ShapeError: a shape of another number of entries, or of less than two modes above 1.
        OptionError: neither eps nor a size is asked.
        BudgetError: nothing that was tried keeps the size.
    """
    begun = time.monotonic()
    if limits.eps is None and limits.max_params is None:
        raise OptionError("A search needs eps= or budget=.")
    if limits.eps is None and proposer.needs_eps:
        raise OptionError(
            f"The search {proposer.name!r} looks for the fewest numbers at an error: give eps=. "
            "Strategies that take budget= alone are 'auto', 'trees', 'packing', 'greedy', 'tnale' and others."
        )
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
    state = Run(objective, proposer, limits, path=path, saved_at=time.monotonic())
    if path is not None and path.exists():
        state.known = read_trials(path, objective.shape, x.dtype, x.device, _question(limits))
        state.order = list({id(t): t for t in state.known.values()}.values())
        _require_same(path, objective, state.order)
    bounds: dict[str, int] = {}
    seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
    with evaluator(objective, seed, workers) as fits:
        status = converse(state, proposer.propose(Setting(objective, rng, bounds)), fits, control, begun)
    state.save(force=True)

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

    held = [t for t in state.order if limits.max_params is None or t.graph.n_params <= limits.max_params]
    if not held:
        both = limits.eps is not None and limits.max_params is not None
        if not both or limits.strict or proposer.needs_eps or control.out_of_time:
            raise BudgetError(f"{proposer.name} tried nothing that fits ({asked}). Allow more parameters or time.")
        closest = run_search(
            x,
            norm,
            proposer,
            replace(limits, eps=None),
            shape=shape,
            rng=rng,
            control=control,
            dtype=dtype,
            asked=asked,
            workers=workers,
        )
        return _missing(closest, limits.eps, proofs(objective, bounds))
    tried = tuple(Candidate(str(t.graph), report(t)) for t in worth(held))
    best = min(tried, key=lambda c: _score(c.fit, limits))
    proved = Proofs(why_none="it was interrupted") if status is INTERRUPTED else proofs(objective, bounds)
    proved = proved.of_real_numbers() if x.is_complex() else proved
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
        limits.eps,
        proved,
    )


def _missing(closest: SearchResult, eps: float | None, proved: Proofs) -> SearchResult:
    """What comes closest to eps within a size, where nothing of that size reaches it."""

    def missed(c: Candidate) -> Candidate:
        return Candidate(c.label, replace(c.fit, status=EPS_NOT_REACHED))

    tried = tuple(map(missed, closest.tried))
    return replace(closest, tried=tried, front=pareto_front(tried), best=missed(closest.best), eps=eps, proofs=proved)


def _key(proposal: Proposal) -> str:
    """Under which a proposal is remembered."""
    how = "" if not proposal.free_ranks else "free " if proposal.parent is None else "polished "
    how += f"fit {proposal.number} of " if proposal.number else ""
    return how + proposal.graph.key


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


def worth(trials: list[Trial]) -> list[Trial]:
    """The trials that no other one beats in both size and error."""
    front: list[Trial] = []
    for t in sorted(trials, key=lambda t: (t.graph.n_params, t.error)):
        if not front or t.error < front[-1].error:
            front.append(t)
    return front


def converse(
    state: Run,
    talk: Conversation,
    fits: Evaluator,
    control: Control,
    begun: float,
    heard: Callable[[], bool] | None = None,
) -> Status:
    """Ask, fit, tell; why it ended. After each fit memory is saved, and whoever listens may say that it is enough."""
    answers: list[Trial | None] | None = None
    try:
        while True:
            try:
                asks = next(talk) if answers is None else talk.send(answers)
            except StopIteration:
                return CONVERGED
            answers = []
            for told in state.answers(asks, fits):
                answers = told
                state.save()
                if heard is not None and heard():
                    return REACHED
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
