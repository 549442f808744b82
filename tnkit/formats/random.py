"""Random formats with a stated variance of the dense tensor.

Example:
    >>> from tnkit.formats import random_format
    >>> tt = random_format("tt", (8, 8, 8), rank=3, variance=4.0, rng=0)
    >>> tt.ranks, 2.0 < float(tt.to_dense().var()) < 8.0
    ((3, 3), True)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from tnkit.errors import OptionError
from tnkit.formats.base import Format
from tnkit.formats.layout import FormatSpec, Layout
from tnkit.formats.network import free_bonds
from tnkit.formats.ranks import RankLike, resolve_ranks
from tnkit.formats.specs import as_spec
from tnkit.network import DFT
from tnkit.rng import RngLike, generator, normal

__all__ = ["random_format", "random_tensors"]


def random_format(
    format: str | FormatSpec,
    shape: Sequence[int],
    rank: RankLike,
    *,
    variance: float = 1.0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    rng: RngLike = None,
) -> Format:
    """A format whose entries are independent normal numbers, scaled for the dense tensor.

    Every entry of the dense tensor has mean 0 and the stated variance (E|x|² for complex ones).

    Args:
        format: a name ("tt", "tucker" …), a spec, or an equation.
        shape: of the dense tensor.
        rank: as for `decompose`.
        variance: of each dense entry, above 0.
        dtype: float32, float64, complex64 or complex128.
        device: where the tensors are made.
        rng: a seed or a generator; fresh entropy by default.

    Raises:
        RankError: ranks that the shape does not admit.
        OptionError: a variance that is not positive.
    """
    layout = as_spec(format).layout(tuple(shape))
    ranks = resolve_ranks(layout, rank)
    like = torch.empty(0, dtype=dtype, device=device)
    return layout.build(random_tensors(layout, ranks, like, generator(rng, like.device), variance=variance))


def random_tensors(
    layout: Layout, ranks: Sequence[int], like: Tensor, gen: torch.Generator, *, variance: float = 1.0
) -> tuple[Tensor, ...]:
    """Random tensors for a layout, on the device and in the dtype of `like`.

    All terms of a dense entry are products of independent entries, one of each node, so its variance is
    (number of terms) × Π (variance of a node's entries). A circular convolution (a mode behind a DFT) has n terms.

    Raises:
        OptionError: a variance that is not positive.
    """
    if not variance > 0:
        raise OptionError(f"variance={variance} must be above 0.")
    sizes = layout.label_sizes(ranks)
    terms = prod(sizes[label] for label in free_bonds(layout.topology))
    terms *= prod(c.n for c in layout.topology.constants if isinstance(c, DFT) and c.inverse)
    shapes = layout.shapes(ranks)
    deviation = (variance / terms) ** (0.5 / len(shapes))
    return tuple(normal(shape, like, gen) * deviation for shape in shapes)
