"""Rounding of formats with loops: fitted anew from the dense tensor, where that fits the memory.

`formats.rounding` finds this under the name "round:dense".
"""

from __future__ import annotations

from typing import Any

from tnkit.arrays import check_dense_size, require_finite
from tnkit.decompose.base import Target
from tnkit.decompose.run import run
from tnkit.formats import (
    BLAST,
    CP,
    BLASTSpec,
    BlockTerm,
    BTDSpec,
    CPSpec,
    EquationSpec,
    Format,
    FormatSpec,
    RingSpec,
    TensorRing,
)
from tnkit.formats.rounding import requested_ranks
from tnkit.registry import PROVIDERS
from tnkit.rng import generator
from tnkit.solvers import Control

__all__ = ["round_dense", "spec_of"]


def spec_of(value: Format) -> FormatSpec:
    """The spec whose layout over the format's own shape is that very structure."""
    if isinstance(value, TensorRing):
        return RingSpec()
    if isinstance(value, CP):
        return CPSpec()
    if isinstance(value, BlockTerm):
        return BTDSpec(terms=value.terms)
    if isinstance(value, BLAST):
        return BLASTSpec(blocks=(value.left.shape[0], value.right.shape[0]), row_modes=2)
    return EquationSpec(value.topology())


def round_dense(value: Format, rank: Any = None, eps: float | None = None) -> Format:
    """Decompose the dense tensor again, with no rank above the present ones.

    Args:
        value: a format without a reshaping of its own.
        rank: as for `decompose`.
        eps: relative error. Where the fit does not reach it, or is no smaller, the value itself comes back.

    Raises:
        MemoryLimitError: the dense tensor would not fit; nothing was allocated.
    """
    check_dense_size(
        value.shape, value.dtype, value.device, what=f"Rounding a {value.name} with loops: its dense tensor"
    )
    dense = value.detach().to_dense()
    spec = spec_of(value)
    layout = spec.layout(tuple(dense.shape))
    ranks = requested_ranks(value, rank) or value.ranks
    limits = tuple(min(pair) for pair in zip(ranks, layout.caps, strict=True))
    target = Target(limits, eps)
    fit = run(dense, require_finite(dense), spec, layout, target, rng=generator(0, dense.device), control=Control())
    missed = eps is not None and fit.rel_error > eps
    allowed = rank is None or value.ranks == ranks
    if allowed and (missed or fit.tensor.n_params >= value.n_params):
        return value
    return fit.tensor


PROVIDERS.register("round:dense", round_dense)
