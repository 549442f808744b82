"""Any tensor network as a convolution kernel.

Where one node carries the input channels alone and another the output channels alone, they are 1×1 convolutions around
a grouped one: labels that both share are its groups (the terms of a block-term or CP kernel). Otherwise the kernel is
made at each call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from tnkit.network import Topology
from tnkit.network.plan import constant
from tnkit.nn.forms.base import FORMS, Factors, KernelForm
from tnkit.nn.forms.convolution import Convolution
from tnkit.nn.forms.pointwise import pointwise
from tnkit.nn.forms.steps import Shapes, Steps, dense_steps, internal_sizes, parsed, run_steps, steps_of

__all__ = ["KernelNetworkForm"]

GROUP = "group"


@dataclass(frozen=True, slots=True)
class KernelNetworkForm(KernelForm):
    """A kernel as a network.

    Attributes:
        equation: the topology of one group's network.
        shapes: of its nodes, without the group axis that each has where there are several groups.
        moves: from (o, i, *k) to the network's modes, (kind, to) each.

    Parameters: node0, node1, …
    """

    equation: str
    shapes: Shapes
    moves: tuple[tuple[str, tuple[int, ...]], ...] = ()
    kind: ClassVar[str] = "kernel_network"

    @property
    def ranks(self) -> tuple[int, ...]:
        """Sizes of the internal labels."""
        return internal_sizes(self.equation, self.shapes)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """One for each node."""
        lead = () if self.groups == 1 else (self.groups,)
        return {f"node{k}": (*lead, *shape) for k, shape in enumerate(self.shapes)}

    def nodes(self, t: Factors) -> list[Tensor]:
        """The tensors in order, each with a group axis."""
        found = [t[f"node{k}"] for k in range(len(self.shapes))]
        return [node[None] for node in found] if self.groups == 1 else found

    def dense(self, t: Factors) -> Tensor:
        """The network of each group, contracted."""
        whole = run_steps(dense_steps(self.equation, self.shapes, GROUP), self.nodes(t))
        return torch.stack([self._inverted(block) for block in whole.unbind()]) if self.moves else whole

    def _inverted(self, block: Tensor) -> Tensor:
        """From the network's modes back to (o, i, *k)."""
        shape, shapes = (self.outs, self.ins, *self.kernel), []
        for kind, to in self.moves:
            shapes.append(shape)
            shape = tuple(shape[k] for k in to) if kind == "permute" else to
        for (kind, to), before in zip(reversed(self.moves), reversed(shapes), strict=True):
            if kind == "pad":
                block = block[tuple(slice(0, n) for n in before)]
            elif kind == "reshape":
                block = block.reshape(before)
            else:
                block = block.permute([to.index(k) for k in range(len(to))])
        return block

    def convolve(self, t: Factors, x: Tensor, how: Convolution) -> Tensor:
        """1×1, grouped k×k, 1×1 where the network has these parts; the whole kernel otherwise."""
        stages = None if self.moves else _stages(self.equation, self.shapes)
        if stages is None:
            return how(x, self.dense(t).flatten(0, 1), self.groups)
        outer, inner, terms, first_axes, last_axes, steps, repeats, left, right = stages
        nodes, g, ones = self.nodes(t), self.groups, self.ones()
        x = pointwise(x, nodes[inner].permute(first_axes).reshape(-1, self.ins, *ones), g)
        core = run_steps(steps, [node for k, node in enumerate(nodes) if k not in (outer, inner)])
        for axis, size in repeats:  # labels that only the outer nodes share
            core = core.unsqueeze(axis).expand(*core.shape[:axis], size, *core.shape[axis:])
        x = how(x, core.reshape(g * terms * left, right, *self.kernel), g * terms)
        return pointwise(x, nodes[outer].permute(last_axes).reshape(g * self.outs, -1, *ones), g)

    def core_macs(self) -> tuple[int, int, int] | None:
        """Multiplications of the three stages at each of their positions, if it has stages."""
        stages = None if self.moves else _stages(self.equation, self.shapes)
        if stages is None:
            return None
        _, _, terms, _, _, _, _, left, right = stages
        first = self.groups * terms * right * self.ins
        last = self.groups * terms * left * self.outs
        return first, self.groups * terms * left * right * prod(self.kernel), last


Stages: TypeAlias = tuple[int, int, int, tuple[int, ...], tuple[int, ...], Steps, tuple[tuple[int, int], ...], int, int]


@constant
def _stages(equation: str, shapes: Shapes) -> Stages | None:
    return _found_stages(equation, shapes)


@lru_cache(maxsize=512)
def _found_stages(equation: str, shapes: Shapes) -> Stages | None:
    """The parts of a network in plain values, or None if it has no such parts.

    The nodes with the output and the input channels; how many terms they share; how their axes are to stand; the
    contraction of the others; (axis, size) of labels that are on none of these; sizes of the other bonds of the two.
    """
    topology = parsed(equation)
    opened, sizes = set(topology.output), topology.sizes(shapes)

    def leaf(label: str) -> int | None:
        holders = topology.nodes_of(label)
        alone = len(holders) == 1 and set(topology.inputs[holders[0]]) & opened == {label}
        return holders[0] if alone else None

    outer, inner = leaf(topology.output[0]), leaf(topology.output[1])
    if outer is None or inner is None or len(topology.inputs) < 3:
        return None
    ours, theirs = ([b for b in topology.inputs[k] if b not in opened] for k in (outer, inner))
    shared = [b for b in ours if b in theirs]
    left, right = [b for b in ours if b not in shared], [b for b in theirs if b not in shared]
    rest = [k for k in range(len(topology.inputs)) if k not in (outer, inner)]
    inputs = tuple((GROUP, *topology.inputs[k]) for k in rest)
    known = {label for labels in inputs for label in labels}
    output = (GROUP, *shared, *left, *right, *topology.output[2:])
    if not set(topology.output[2:]) <= known:
        return None
    there = Topology(inputs, tuple(label for label in output if label in known))
    steps = steps_of(there, tuple((2, *shapes[k]) for k in rest))
    repeats = tuple((axis, sizes[label]) for axis, label in enumerate(output) if label not in known)

    def axes(node: int, wanted: list[str]) -> tuple[int, ...]:
        return (0, *(1 + topology.inputs[node].index(label) for label in wanted))

    def size(labels: list[str]) -> int:
        return prod(sizes[label] for label in labels)

    first = axes(inner, [*shared, *right, topology.output[1]])
    last = axes(outer, [topology.output[0], *shared, *left])
    return outer, inner, size(shared), first, last, steps, repeats, size(left), size(right)


FORMS.register(KernelNetworkForm.kind, KernelNetworkForm)
