"""The automatic choice of a format: the one whose held-out error after a short fit is the smallest.

A tensor train, and for three and more modes also CP and (up to five modes) Tucker are compared. Before that,
`tnkit.completion.dense_choice` has taken out images, and after it, cubes and panels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from tnkit.completion.als import CompletionALS
from tnkit.completion.base import CompletionFit, CompletionProblem
from tnkit.formats import FormatSpec, as_spec
from tnkit.solvers import INTERRUPTED, TIME_LIMIT

__all__ = ["candidates", "choose_format"]

#: Observed entries that a short fit sees at the most.
SAMPLE = 20_000
#: Numbers of a core that a short fit has at the most: a sweep costs their square times the entries.
CORE = 256


def candidates(ndim: int) -> tuple[FormatSpec, ...]:
    """The formats that are compared for an array of so many modes."""
    names = ["tt"] + ["cp"] * (ndim >= 3) + ["tucker"] * (3 <= ndim <= 5)
    return tuple(as_spec(name) for name in names)


@dataclass(frozen=True, slots=True, eq=False)
class _Score:
    spec: FormatSpec
    fit: CompletionFit
    n_params: int


def choose_format(problem: CompletionProblem, method: CompletionALS) -> tuple[FormatSpec, str, CompletionFit | None]:
    """The format with the smallest held-out error after a short fit.

    Args:
        problem: its layout does not count.
        method: for the long fit; the short ones take fewer sweeps and ranks, on some of the entries.

    Returns:
        The spec, why, and the short fit, which is what there is if the time runs out.
    """
    obs = problem.observations
    specs = candidates(obs.ndim)
    if len(specs) == 1:
        return specs[0], f"an array of {obs.ndim} mode{'s' * (obs.ndim > 1)} has one low-rank form", None
    if obs.n > SAMPLE:
        order = torch.randperm(obs.n, generator=problem.rng, device=problem.rng.device)[:SAMPLE]
        picks = torch.zeros(obs.n, dtype=torch.bool, device=obs.values.device)
        picks[order.to(obs.values.device)] = True
        obs = obs.take(picks)
    short = replace(method, max_steps=20, starts=1, refine=False)
    scores: list[_Score] = []
    for spec in specs:
        layout = spec.layout(obs.shape)
        most = min(6, int(CORE ** (1 / obs.ndim))) if spec.name == "tucker" else 6
        fit = replace(short, max_rank=most).fit(replace(problem, observations=obs, layout=layout))
        if fit.tensors is not None and fit.heldout_error is not None:
            scores.append(_Score(spec, fit, layout.n_params(layout.ranks_of(fit.tensors))))
        if fit.status in (INTERRUPTED, TIME_LIMIT):
            break
    if not scores:
        return specs[0], "too few entries are observed to compare formats", None
    least = min(s.fit.heldout_error or 0.0 for s in scores)
    near = [s for s in scores if (s.fit.heldout_error or 0.0) <= max(1.05 * least, 1e-8)]
    best = min(near, key=lambda s: s.n_params)
    told = ", ".join(f"{s.spec.name} {s.fit.heldout_error:.2g}" for s in scores)
    return best.spec, f"{best.spec.name} is best by a short fit (held-out errors: {told})", best.fit
