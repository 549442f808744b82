"""The automatic choice: which method and which format complete an array best.

- A smooth real array of two to four modes with two long ones and few channels (a photograph, a map, a short video) goes
  to T-CTV: plain low rank sees no neighbourhoods, and is several dB worse on photographs. Smooth means that neighbours
  that are both observed differ by much less than entries at random, along both of the first two modes.
- Anything else goes to least squares on the observed entries, in the format whose held-out error after a short fit is
  the smallest: a tensor train, and for three and more modes also CP and (up to five modes) Tucker.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch

from tnkit.completion.als import CompletionALS
from tnkit.completion.base import CompletionFit, CompletionProblem
from tnkit.completion.observations import Observations
from tnkit.formats import FormatSpec, as_spec
from tnkit.solvers import INTERRUPTED, TIME_LIMIT

__all__ = ["candidates", "choose_format", "looks_like_an_image", "smoothness"]

#: Neighbours in an image differ by less than this share of what entries at random do (mean squares).
SMOOTH = 0.5
#: Entries of the largest array for which T-CTV is chosen.
LARGEST = 2**22
#: Observed entries that a short fit sees at the most.
SAMPLE = 40_000


def smoothness(obs: Observations, mode: int) -> float:
    """Mean square difference of observed neighbours along a mode, over that of random pairs; inf if there are none."""
    dense, seen = obs.to_dense(), obs.mask()
    n = obs.shape[mode]
    both = seen.narrow(mode, 0, n - 1) & seen.narrow(mode, 1, n - 1)
    pairs = int(both.sum())
    if pairs < 8:
        return float("inf")
    step = (dense.narrow(mode, 1, n - 1) - dense.narrow(mode, 0, n - 1))[both].square().mean()
    spread = 2 * obs.values.var(correction=0)
    return float(step / spread) if float(spread) > 0 else float("inf")


def looks_like_an_image(obs: Observations) -> bool:
    """Whether T-CTV is the method of choice."""
    shape = obs.shape
    if obs.values.is_complex() or obs.weights is not None or not 2 <= obs.ndim <= 4 or prod(shape) > LARGEST:
        return False
    if min(shape[:2]) < 16 or max(shape[:2]) > 1024 or prod(shape[2:]) > 32:
        return False
    return all(smoothness(obs, mode) < SMOOTH for mode in (0, 1))


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
    short = replace(method, max_steps=20, starts=1, max_rank=6)
    scores: list[_Score] = []
    for spec in specs:
        layout = spec.layout(obs.shape)
        fit = short.fit(replace(problem, observations=obs, layout=layout))
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
