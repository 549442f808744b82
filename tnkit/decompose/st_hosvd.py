"""ST-HOSVD: Tucker by sequential truncation, the cheapest mode first; the core's shape from its cumulative energy.

References: Vannieuwenhoven, Vandebril & Meerbergen 2012, doi:10.1137/110836067; De Lathauwer, De Moor & Vandewalle
2000, doi:10.1137/S0895479896305696.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.decompose.allowance import allowed2, floor2, known_error
from tnkit.decompose.base import Fit, Method, Problem
from tnkit.decompose.core_shape import Compressed, cheapest_core, turn_to_hosvd
from tnkit.decompose.nested import Nested, project_nested
from tnkit.decompose.rough import SMALL, Rough, budget_caps
from tnkit.formats.trees import tree_of
from tnkit.registry import METHODS

__all__ = ["STHOSVD", "compress_tucker", "fit_by_ranks", "fit_within"]


@dataclass(frozen=True, slots=True)
class STHOSVD(Method):
    """Sequentially truncated HOSVD.

    By ranks the error is at most √d times the best, and reported from the energies that the modes discard. With eps or
    a budget the array is first compressed to generous ranks, and one cumulative sum over the core's energies gives the
    error of every core shape at once: the cheapest that keeps eps is taken, or the best within the size.

    Example:
        >>> import torch, tnkit as tk
        >>> x = torch.arange(24.0).reshape(2, 3, 4)
        >>> tk.decompose(x, "tucker", eps=1e-5, method="st_hosvd").tensor.ranks
        (2, 2, 2)
    """

    name: ClassVar[str] = "st_hosvd"
    formats: ClassVar[tuple[str, ...]] = ("tucker",)
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = (
        "ST-HOSVD, direct and quasi-optimal; the core's shape from one cumulative sum of its energies"
    )

    def fit(self, problem: Problem) -> Fit:
        """See `Method.fit`. Cost: a few reads of the array and 2 N r flops where ranks are small."""
        target = problem.target
        if target.eps is None and target.max_params is None:
            found, certain = fit_by_ranks(problem, problem.max_ranks)
        else:
            with torch.no_grad():
                found = fit_within(problem, compress_tucker(problem))
            certain = True
            if problem.x.requires_grad and torch.is_grad_enabled():
                found, certain = fit_by_ranks(problem, tuple(found.core.shape))
        tensors = (found.core.contiguous(), *(f.contiguous() for f in found.factors))
        return Fit(tensors, known_error(problem, found.lost2, certain))


def fit_by_ranks(problem: Problem, ranks: tuple[int, ...]) -> tuple[Compressed, bool]:
    """ST-HOSVD of these ranks, and whether its error is certain."""
    done = nested_by_ranks(problem, ranks)
    return as_compressed(done), done.certain


def nested_by_ranks(problem: Problem, ranks: tuple[int, ...]) -> Nested:
    """The same as nested projections, with the least error that any Tucker tensor of these ranks has."""
    layout = problem.layout
    limits = dict(zip(layout.bonds, ranks, strict=True))
    return project_nested(problem.x, tree_of(layout.topology), limits, problem.norm**2, problem.rng)


def as_compressed(done: Nested) -> Compressed:
    """Core and factors of nested projections on a star."""
    core, *factors = done.tensors
    return Compressed(core, factors, done.lost2)


def compress_tucker(problem: Problem) -> Compressed:
    """Tucker of generous ranks, before the final ones are chosen."""
    layout, target = problem.layout, problem.target
    x = problem.x.detach()
    caps = problem.max_ranks
    small = x.numel() <= SMALL
    if target.eps is None and target.max_params is not None and not small:
        caps = budget_caps(caps, target.max_params, layout.n_params)
    rough = Rough(allowed2(problem), floor2(problem), x.ndim, small, problem.rng)
    limits = dict(zip(layout.bonds, caps, strict=True))
    done = project_nested(x, tree_of(layout.topology), limits, problem.norm**2, problem.rng, rough=rough)
    core, *factors = done.tensors
    return Compressed(core, factors, done.lost2)


def fit_within(problem: Problem, rough: Compressed) -> Compressed:
    """The best corner of the core for what is asked."""
    error2 = allowed2(problem)
    turned = turn_to_hosvd(rough)
    ranks = cheapest_core(
        turned.core,
        problem.layout.inner_shape,
        None if error2 is None else error2 - rough.lost2,
        problem.target.max_params,
        problem.max_ranks,
    )
    return corner(turned, ranks)


def corner(whole: Compressed, ranks: tuple[int, ...]) -> Compressed:
    """The leading corner of a core, with what that discards."""
    core = whole.core[tuple(slice(0, r) for r in ranks)]
    rest = outside2(whole.core, ranks)
    return Compressed(core, [f[:, :r] for f, r in zip(whole.factors, ranks, strict=True)], whole.lost2 + rest)


def outside2(core: Tensor, ranks: tuple[int, ...]) -> float:
    """The energy outside of a corner, summed over what lies outside, so that small ones are exact."""
    total = 0.0
    for k, r in enumerate(ranks):
        part = core[
            tuple(slice(0, ranks[j]) if j < k else slice(r, None) if j == k else slice(None) for j in range(core.ndim))
        ]
        if part.numel():
            total += (
                float(torch.linalg.vector_norm(part, dtype=torch.complex128 if part.is_complex() else torch.float64))
                ** 2
            )
    return total


METHODS.register("st_hosvd", STHOSVD)
