"""Searches over reshapings of an array: its modes as they are, and split in two, one search for each.

Networks over factors of the modes include those over the modes, since a node may hold several of them: a finer shape
can only allow more, but takes longer, and its search may miss what a coarser one finds. So several are searched, and
all that was found is one result.

Example:
    >>> list(reshapings((12, 5, 9)))
    [(12, 5, 9), (3, 4, 5, 9), (12, 5, 3, 3), (3, 4, 5, 3, 3)]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tnkit.errors import BudgetError, ShapeError
from tnkit.files import PathLikeStr
from tnkit.search.front import Candidate, SearchResult, pareto_front
from tnkit.search.proofs import Proofs
from tnkit.search.proposer import Proposer
from tnkit.search.runner import Limits, run_search
from tnkit.solvers import INTERRUPTED, MAX_STEPS, TIME_LIMIT, Control
from tnkit.tensorize import balanced_factors

__all__ = ["reshapings", "run_reshaped"]

_MOST = 8  # modes after the split
_LEAST = 8  # a mode that is split
_ALL = 3  # modes up to which all sets of them are split; of more, one after the other


def reshapings(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The shape without modes of size 1, then with some of its modes split in two factors, as equal as there are."""
    sizes = [n for n in shape if n > 1]
    parts = {k: sorted(balanced_factors(n, 2)) for k, n in enumerate(sizes) if n >= _LEAST}
    split = sorted((k for k, (a, _) in parts.items() if a > 1), key=lambda k: -sizes[k])
    room = _MOST - len(sizes)
    if len(split) <= _ALL:
        chosen = [c for n in range(len(split) + 1) for c in combinations(sorted(split), n)]
    else:
        chosen = [tuple(split[:n]) for n in range(len(split) + 1)]
    for some in chosen:
        if len(some) <= max(room, 0):
            yield tuple(n for k, size in enumerate(sizes) for n in (parts[k] if k in some else (size,)))


def run_reshaped(
    x: Tensor,
    norm: float,
    proposer: Proposer,
    limits: Limits,
    *,
    rng: torch.Generator,
    control: Control,
    dtype: torch.dtype | None = None,
    asked: str = "",
    save: PathLikeStr | None = None,
    workers: int | None = None,
) -> SearchResult:
    """One search for each reshaping, as one result; see `run_search`.

    A file is kept for each: its name with the shape before its ending.

    Raises:
        ShapeError: no reshaping has two modes.
        BudgetError: nothing that was tried keeps the size.
    """
    found: list[tuple[tuple[int, ...], SearchResult]] = []
    left_out: list[tuple[str, str]] = []
    left = limits.max_evaluations
    for shape in reshapings(x.shape):
        if len(shape) < 2:
            continue
        if left is not None and left <= 0:
            break
        options: dict[str, Any] = {
            "rng": rng,
            "control": control,
            "dtype": dtype,
            "asked": asked,
            "workers": workers,
        }
        try:
            own = run_search(
                x,
                norm,
                proposer,
                replace(limits, max_evaluations=left),
                shape=shape,
                save=None if save is None else named(Path(save), shape),
                **options,
            )
        except BudgetError as error:
            left_out.append((_words(shape), str(error).split(". ")[0]))
            continue
        found.append((shape, own))
        left = None if left is None else left - own.evaluations
        if own.status == INTERRUPTED or control.out_of_time:
            break
    if not found:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out)
        if reasons:
            raise BudgetError(f"No reshaping of {tuple(x.shape)} fits what was asked ({asked}). {reasons}")
        raise ShapeError(f"A search over graphs needs two modes above 1; {tuple(x.shape)} cannot be reshaped so.")
    return _as_one(found, limits, left_out)


def named(path: Path, shape: Sequence[int]) -> Path:
    """The file of one shape."""
    return path.with_name(f"{path.stem}.{'x'.join(map(str, shape))}{path.suffix}")


def _words(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _as_one(
    found: list[tuple[tuple[int, ...], SearchResult]], limits: Limits, left_out: list[tuple[str, str]]
) -> SearchResult:
    def candidate(shape: tuple[int, ...], c: Candidate) -> Candidate:
        return Candidate(f"{_words(shape)}: {c.label}", replace(c.fit, why=f"{c.fit.why}; as {_words(shape)}"))

    def score(c: Candidate) -> tuple[float, float]:
        if limits.eps is None:
            return (c.fit.rel_error, c.fit.n_params)
        return (c.fit.n_params if c.fit.rel_error <= limits.eps * (1 + 1e-9) else inf, c.fit.rel_error)

    tried = tuple(candidate(shape, c) for shape, own in found for c in own.tried)
    best = min((candidate(shape, own.best) for shape, own in found), key=score)
    elapsed = sum(own.elapsed_s for _, own in found)
    ends = [own.status for _, own in found]
    status = next((s for s in (INTERRUPTED, TIME_LIMIT, MAX_STEPS) if s in ends), ends[-1])
    return SearchResult(
        pareto_front(tried),
        replace(best, fit=replace(best.fit, elapsed_s=elapsed)),
        tried,
        (*left_out, *(pair for _, own in found for pair in own.left_out)),
        elapsed,
        status,
        sum(own.evaluations for _, own in found),
        sum(own.pruned for _, own in found),
        limits.eps,
        Proofs(
            tuple((f"{what} over {_words(shape)}", least) for shape, own in found for what, least in own.proofs.sizes),
            tuple((f"{what} over {_words(shape)}", least) for shape, own in found for what, least in own.proofs.errors),
            next((own.proofs.why_none for _, own in found if own.proofs.why_none), ""),
        ),
    )
