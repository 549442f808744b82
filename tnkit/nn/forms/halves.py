"""Halves: a network whose nodes hold either rows or columns is a product of two matrices.

CP is one: its terms are the columns of both, each a Khatri-Rao product. Two large products of matrices keep a processor
busier than many small contractions of as many multiplications.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import TypeAlias

from torch import Tensor

from tnkit.network import Topology, plan
from tnkit.network.plan import constant
from tnkit.nn.forms.steps import Shapes, Steps, parsed, run_steps, steps_of

__all__ = ["Halves", "halves", "matrices"]

#: (width of both, nodes of the rows' matrix, how to contract them, nodes of the columns', how to contract those,
#: floating-point operations of that), in plain values.
Halves: TypeAlias = tuple[int, tuple[int, ...], Steps, tuple[int, ...], Steps, int]


@constant
def halves(equation: str, shapes: Shapes, n_rows: int) -> Halves | None:
    """How the two matrices are made, or None where a node holds both rows and columns, or one half has no node.

    Args:
        equation: of the network, rows before columns among its open labels.
        shapes: of its nodes; those that hold neither go to the rows.
        n_rows: how many of the open labels are rows.

    Example:
        >>> from tnkit.nn.forms.halves import halves
        >>> width, left, _, right, _, _ = halves("ir,jr,kr,lr->ijkl", ((4, 9), (3, 9), (2, 9), (6, 9)), 2)
        >>> width, left, right
        (9, (0, 1), (2, 3))
        >>> halves("ija,akl->ikjl", ((2, 2, 3), (3, 2, 2)), 2) is None
        True
    """
    return _halves(equation, shapes, n_rows)


@lru_cache(maxsize=2048)
def _halves(equation: str, shapes: Shapes, n_rows: int) -> Halves | None:
    topology = parsed(equation)
    inputs, rows, columns = topology.inputs, topology.output[:n_rows], topology.output[n_rows:]
    right = tuple(k for k, labels in enumerate(inputs) if not set(columns).isdisjoint(labels))
    left = tuple(k for k in range(len(inputs)) if k not in right)
    mixed = any(not set(rows).isdisjoint(inputs[k]) for k in right)
    if not left or not right or mixed or any(c is not None for c in topology.constants):
        return None
    here, there = ({label for k in side for label in inputs[k]} for side in (left, right))
    cut = tuple(label for label in topology.internal if label in here and label in there)
    parts = [
        (Topology(tuple(inputs[k] for k in side), (*outer, *cut)), tuple(shapes[k] for k in side))
        for side, outer in ((left, rows), (right, columns))
    ]
    width = prod(topology.sizes(shapes)[label] for label in cut)
    flops = sum(plan(*part).flops for part in parts)
    return width, left, steps_of(*parts[0]), right, steps_of(*parts[1]), flops


def matrices(how: Halves, nodes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Both matrices, (M, width) and (N, width): the dense one is the first times the transpose of the second."""
    width, left, left_steps, right, right_steps, _ = how
    first = run_steps(left_steps, [nodes[k] for k in left])
    second = run_steps(right_steps, [nodes[k] for k in right])
    return first.reshape(-1, width), second.reshape(-1, width)
