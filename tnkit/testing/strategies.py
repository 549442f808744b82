"""Hypothesis strategies for arrays and formats (extra `testing`).

Example:
    >>> from hypothesis import given, settings
    >>> from tnkit.testing.strategies import formats
    >>> @settings(max_examples=5, derandomize=True, database=None)
    ... @given(formats("tt"))
    ... def holds(tt):
    ...     assert tt.to_dense().shape == tt.shape
    >>> holds()
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tnkit.arrays import ENGINE_DTYPES
from tnkit.formats import (
    BLASTSpec,
    BlockTTSpec,
    BTDSpec,
    Format,
    FormatSpec,
    HTSpec,
    KronSpec,
    LowRankSpec,
    TTMatrixSpec,
    as_spec,
    random_format,
)
from tnkit.registry import FORMATS
from tnkit.rng import generator, normal

__all__ = ["arrays", "dtypes", "format_names", "formats", "layouts", "shapes", "specs", "with_layout"]

LAYOUTS = ("contiguous", "transposed", "strided", "offset")

#: Specs beside the default one, for formats that have choices.
VARIANTS: dict[str, tuple[FormatSpec, ...]] = {
    "ht": (HTSpec("linear"),),
    "ttm": (TTMatrixSpec(order="split"), TTMatrixSpec(row_modes=1)),
    "btd": (BTDSpec(terms=1), BTDSpec(terms=3)),
    "lowrank": (LowRankSpec(row_modes=1),),
    "btt": (BlockTTSpec(blocks=(2, 3)),),
    "blast": (BLASTSpec(blocks=(2, 3)), BLASTSpec(blocks=(1, 1))),
    "kron": (KronSpec(left=(2, 2)),),
}


@st.composite
def shapes(
    draw: st.DrawFn, *, min_order: int = 1, max_order: int = 7, max_entries: int = 600, max_size: int = 12
) -> tuple[int, ...]:
    """Shapes, sizes of 1 and primes among them.

    Args:
        draw: given by hypothesis.
        min_order: fewest modes.
        max_order: most modes.
        max_entries: of the dense array.
        max_size: of one mode.
    """
    found: list[int] = []
    for _ in range(draw(st.integers(min_order, max_order))):
        room = max(1, max_entries // prod(found))
        found.append(draw(st.integers(1, min(max_size, room))))
    return tuple(draw(st.permutations(found)))


def dtypes(*, real: bool = True, complex: bool = True) -> st.SearchStrategy[torch.dtype]:
    """The dtypes in which tnkit computes: float32, float64, complex64, complex128.

    Args:
        real: with the real ones.
        complex: with the complex ones.
    """
    return st.sampled_from([d for d in ENGINE_DTYPES if (complex if d.is_complex else real)])


def layouts() -> st.SearchStrategy[str]:
    """How an array lies in memory: see `with_layout`."""
    return st.sampled_from(LAYOUTS)


def with_layout(x: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout.

    Args:
        x: an array.
        layout: "contiguous", "transposed" (strides the other way round), "strided" (every second entry of a larger
            one) or "offset" (in the middle of a larger one).

    Example:
        >>> with_layout(torch.ones(3, 4), "transposed").stride()
        (1, 3)
    """
    if layout == "transposed":
        back = tuple(reversed(range(x.ndim)))
        return x.permute(back).contiguous().permute(back)
    if layout == "strided":
        wide = x.new_zeros([2 * n for n in x.shape])[tuple(slice(None, None, 2) for _ in x.shape)]
        return wide.copy_(x)
    if layout == "offset":
        inner = x.new_zeros([n + 2 for n in x.shape])[tuple(slice(1, -1) for _ in x.shape)]
        return inner.copy_(x)
    return x.contiguous()


@st.composite
def arrays(
    draw: st.DrawFn,
    shape: st.SearchStrategy[tuple[int, ...]] | tuple[int, ...] | None = None,
    *,
    dtype: st.SearchStrategy[torch.dtype] | torch.dtype | None = None,
    scale: st.SearchStrategy[float] | float = 1.0,
    layout: st.SearchStrategy[str] | str | None = None,
) -> Tensor:
    """Arrays as torch tensors: noise, smooth, of low rank, with many zeros, constant or zero.

    Args:
        draw: given by hypothesis.
        shape: a shape, or a strategy for it; `shapes()` by default.
        dtype: likewise; `dtypes()` by default.
        scale: what all entries are multiplied by; such as 1e-200.
        layout: likewise; `layouts()` by default.
    """
    n = _drawn(draw, shapes() if shape is None else shape)
    kind = _drawn(draw, dtypes() if dtype is None else dtype)
    how = draw(st.sampled_from(["noise", "smooth", "low rank", "sparse", "constant", "zero"]))
    x = _values(how, n, kind, draw(st.integers(0, 2**31)))
    return with_layout(x * _drawn(draw, scale), _drawn(draw, layouts() if layout is None else layout))


def _drawn(draw: st.DrawFn, value: Any) -> Any:
    return draw(value) if isinstance(value, st.SearchStrategy) else value


def _values(how: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    gen, like = generator(seed), torch.empty(0, dtype=dtype)
    if how == "noise":
        return normal(shape, like, gen)
    if how == "sparse":
        return normal(shape, like, gen) * (torch.rand(shape, generator=gen) < 0.2)
    if how == "low rank":
        return random_format("cp", shape, 2, dtype=dtype, rng=gen).to_dense()
    if how == "smooth":
        grids = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
        total = torch.stack(grids).sum(0)
        phase = torch.exp(0.3j * total) if dtype.is_complex else torch.ones_like(total)
        return (phase / (1.0 + total)).to(dtype)
    return torch.full(shape, 1.0 if how == "constant" else 0.0, dtype=dtype)


def format_names() -> st.SearchStrategy[str]:
    """The names of all registered formats."""
    return st.sampled_from(FORMATS.names())


@st.composite
def specs(draw: st.DrawFn, name: str | None = None) -> FormatSpec:
    """Specs: the default one of a name, or one with other choices.

    Args:
        draw: given by hypothesis.
        name: of the format; any by default.
    """
    chosen = draw(format_names()) if name is None else name
    return draw(st.sampled_from([as_spec(chosen), *VARIANTS.get(chosen, ())]))


@st.composite
def formats(
    draw: st.DrawFn,
    name: str | None = None,
    *,
    shape: st.SearchStrategy[tuple[int, ...]] | tuple[int, ...] | None = None,
    dtype: st.SearchStrategy[torch.dtype] | torch.dtype | None = None,
    max_rank: int = 4,
) -> Format:
    """Random formats.

    Args:
        draw: given by hypothesis.
        name: of the format; any by default.
        shape: a shape, or a strategy for it; `shapes()` by default.
        dtype: likewise; `dtypes()` by default.
        max_rank: of every bond, where the shape admits it.
    """
    spec = draw(specs(name))
    n = _drawn(draw, shapes() if shape is None else shape)
    if isinstance(spec, TTMatrixSpec) and spec.row_modes == 1 and len(n) < 2:
        spec = TTMatrixSpec()
    layout = spec.layout(n)
    ranks = tuple(draw(st.integers(1, min(max_rank, cap))) for cap in layout.caps)
    kind = _drawn(draw, dtypes() if dtype is None else dtype)
    return random_format(spec, n, ranks, dtype=kind, rng=draw(st.integers(0, 2**31)))
