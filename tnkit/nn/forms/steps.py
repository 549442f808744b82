"""Contraction orders as plain values, which compiled and exported code takes as constants."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from tnkit.network import Topology, plan
from tnkit.network.plan import constant

__all__ = ["Shapes", "Steps", "dense_steps", "internal_sizes", "is_traced", "parsed", "run_steps", "steps_of"]

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
#: Which operands are taken out, and the einsum equation whose result is appended.
Steps: TypeAlias = tuple[tuple[tuple[int, ...], str], ...]


def run_steps(steps: Steps, operands: Sequence[Tensor]) -> Tensor:
    """Contract."""
    left = list(operands)
    for taken, equation in steps:
        made = torch.einsum(equation, *[left[k] for k in taken])
        left = [t for k, t in enumerate(left) if k not in taken]
        left.append(made)
    return left[0]


def steps_of(topology: Topology, shapes: Shapes) -> Steps:
    """The planner's order for these shapes."""
    return tuple((step.operands, step.equation) for step in plan(topology, shapes).steps)


@lru_cache(maxsize=512)
def parsed(equation: str) -> Topology:
    """The topology of an equation."""
    return Topology.parse(equation)


def internal_sizes(equation: str, shapes: Shapes) -> tuple[int, ...]:
    """Sizes of the labels between the nodes, in the order of the topology."""
    topology = parsed(equation)
    sizes = topology.sizes(shapes)
    return tuple(sizes[label] for label in topology.internal)


@lru_cache(maxsize=2048)
def _dense_steps(equation: str, shapes: Shapes, label: str) -> Steps:
    topology = parsed(equation)
    if not label:
        return steps_of(topology, shapes)
    wide = Topology(tuple((label, *labels) for labels in topology.inputs), (label, *topology.output))
    return steps_of(wide, tuple((2, *shape) for shape in shapes))


@constant
def dense_steps(equation: str, shapes: Shapes, label: str = "") -> Steps:
    """The order that gives the dense tensor; with `label`, of several networks along a first axis of that name."""
    return _dense_steps(equation, shapes, label)


def is_traced(x: Tensor) -> bool:
    """Whether torch traces, compiles, exports or transforms just now, so that sizes and times are not to be asked."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) not in (Tensor, torch.nn.Parameter)
