"""ContractionPlan: the order in which a network is contracted, found once per topology and sizes.

Path search is opt_einsum's, or that of a provider (cotengra, after `import tnkit.interop.cotengra`). A plan, its run
and its printed table are three things, and a plan is a plain value that can be kept in a module.

Example:
    >>> from tnkit.network import Topology, plan
    >>> p = plan(Topology.parse("ia,ajb,bk->ijk"), ((4, 2), (2, 5, 3), (3, 6)))
    >>> p.flops
    840
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from operator import index
from typing import Any, TypeVar

import opt_einsum
import torch
from torch import Tensor

from tnkit.errors import EquationError, UnknownNameError
from tnkit.network.constants import Constant, constant_of
from tnkit.network.topology import Topology, TopologyKey
from tnkit.registry import PROVIDERS, provider

__all__ = ["ContractionPlan", "Step", "contract", "plan"]

Shape = tuple[int, ...]
C = TypeVar("C", bound="Callable[..., Any]")
LETTERS = string.ascii_letters
#: The searches of opt_einsum.
PATHS = ("auto", "auto-hq", "greedy", "dp", "optimal", "branch-all", "branch-2", "branch-1", "random-greedy")


@dataclass(frozen=True)
class Step:
    """One pairwise contraction (or a sum over one tensor's own labels).

    Attributes:
        operands: positions in the list of operands; they are taken out and the result is appended.
        inputs: their labels.
        output: the labels of the result.
        flops: multiplications and additions (a real multiply-add counts two).
        size: entries of the result.
    """

    operands: tuple[int, ...]
    inputs: tuple[tuple[str, ...], ...]
    output: tuple[str, ...]
    flops: int
    size: int

    @property
    def equation(self) -> str:
        """The step in the letters that `torch.einsum` reads; letters are local to the step."""
        local: dict[str, str] = {}
        for labels in self.inputs:
            for label in labels:
                if label not in local:
                    if len(local) == len(LETTERS):
                        raise EquationError(f"A single contraction touches more than {len(LETTERS)} labels.")
                    local[label] = LETTERS[len(local)]
        terms = ",".join("".join(local[label] for label in labels) for labels in self.inputs)
        return f"{terms}->{''.join(local[label] for label in self.output)}"


@dataclass(frozen=True)
class ContractionPlan:
    """A contraction order with its cost.

    Attributes:
        topology: what is contracted.
        shapes: of the parameter nodes.
        steps: in order.
    """

    topology: Topology
    shapes: tuple[Shape, ...]
    steps: tuple[Step, ...]
    equations: tuple[str, ...]

    @property
    def flops(self) -> int:
        """Floating-point operations of one run on real numbers; a multiply-add counts two."""
        return sum(step.flops for step in self.steps)

    @property
    def peak_size(self) -> int:
        """Entries of the largest tensor that is made on the way, the result included."""
        return max((step.size for step in self.steps), default=0)

    def run(self, tensors: Sequence[Tensor]) -> Tensor:
        """Contract.

        Args:
            tensors: the parameter nodes, in order; constants are filled in.

        Returns:
            The tensor of the open labels. Real if all parameters are real (a complex constant inside notwithstanding).
        """
        operands = _fill_constants(self.topology.constants, tensors)
        recipe = zip((step.operands for step in self.steps), self.equations, strict=True)
        return _run(recipe, operands, is_complex=any(t.is_complex() for t in tensors))

    def __str__(self) -> str:
        """A table: one row a contraction, then the totals."""
        rows = [(" ".join(map(str, s.operands)), s.equation, f"{s.flops:,}", f"{s.size:,}") for s in self.steps]
        head = ("operands", "contraction", "flops", "entries")
        widths = [max(len(row[c]) for row in [head, *rows]) for c in range(4)]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
        ]
        total = f"{self.topology}: {self.flops:,} flops, largest intermediate {self.peak_size:,} entries"
        return "\n".join([total, lines[0], "-" * len(lines[0]), *lines[1:]])


def _fill_constants(constants: Sequence[Constant | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    if all(c is None for c in constants):
        return list(tensors)
    given = iter(tensors)
    first = tensors[0]
    operands = [next(given) if c is None else c.tensor(first.dtype, first.device) for c in constants]
    wide = next(t.dtype for c, t in zip(constants, operands, strict=True) if c is not None)
    return [t.to(torch.promote_types(t.dtype, wide)) for t in operands]


def _run(recipe: Iterable[tuple[Sequence[int], str]], operands: list[Tensor], *, is_complex: bool) -> Tensor:
    for taken, equation in recipe:
        result = torch.einsum(equation, *[operands[k] for k in taken])
        operands = [t for k, t in enumerate(operands) if k not in taken]
        operands.append(result)
    return operands[0].real.contiguous() if operands[0].is_complex() and not is_complex else operands[0]


def plan(topology: Topology, shapes: Sequence[Sequence[int]], optimize: str = "auto") -> ContractionPlan:
    """The contraction order for these shapes; computed once and kept.

    Args:
        topology: the network.
        shapes: of its parameter nodes.
        optimize: "auto", "greedy", "optimal" … of opt_einsum, or the name of a provider such as "cotengra".

    Raises:
        EquationError: the shapes do not fit the labels.
        MissingExtraError: the provider is not installed or not imported.
        UnknownNameError: no such search.
    """
    return _plan(topology, tuple(tuple(int(n) for n in shape) for shape in shapes), optimize)


@lru_cache(maxsize=4096)
def _plan(topology: Topology, shapes: tuple[Shape, ...], optimize: str) -> ContractionPlan:
    sizes = topology.sizes(shapes)
    symbol = {label: opt_einsum.get_symbol(k) for k, label in enumerate(topology.labels)}
    terms = ["".join(symbol[label] for label in labels) for labels in topology.inputs]
    equation = ",".join(terms) + "->" + "".join(symbol[label] for label in topology.output)
    full = [tuple(sizes[label] for label in labels) for labels in topology.inputs]
    path, _ = opt_einsum.contract_path(equation, *full, shapes=True, optimize=_optimizer(optimize))
    steps = _steps(topology, sizes, path)
    return ContractionPlan(topology, shapes, steps, tuple(step.equation for step in steps))


def _optimizer(name: str) -> Any:
    if f"path:{name}" in PROVIDERS:
        return PROVIDERS.get(f"path:{name}")()
    if name == "cotengra":
        return provider("path:cotengra", "interop")()
    if name not in PATHS:
        known = (*PATHS, *(p.removeprefix("path:") for p in PROVIDERS if p.startswith("path:")))
        raise UnknownNameError(
            f"Unknown way to find a contraction order, optimize={name!r}. Known: {', '.join(known)}."
        )
    return name


def _steps(topology: Topology, sizes: dict[str, int], path: Sequence[Sequence[int]]) -> tuple[Step, ...]:
    operands = [tuple(labels) for labels in topology.inputs]
    steps: list[Step] = []
    for position, taken in enumerate(path):
        chosen = tuple(sorted(taken))
        inputs = tuple(operands[k] for k in chosen)
        operands = [labels for k, labels in enumerate(operands) if k not in chosen]
        last = position == len(path) - 1
        needed = set(topology.output).union(*operands)
        touched = tuple(dict.fromkeys(label for labels in inputs for label in labels))
        output = topology.output if last else tuple(label for label in touched if label in needed)
        summed = any(label not in output for label in touched)
        flops = prod(sizes[label] for label in touched) * (len(inputs) - 1 + summed)
        steps.append(Step(chosen, inputs, output, flops, prod(sizes[label] for label in output)))
        operands.append(output)
    return tuple(steps)


def constant(function: C) -> C:
    """Have `torch.compile` call a function while it traces, with plain values, and take what it gives as a constant.

    It is what `torch.compiler.assume_constant_result` does; to call that would import the whole compiler with tnkit.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant
def _recipe(key: TopologyKey, shapes: tuple[Shape, ...], optimize: str) -> tuple[tuple[tuple[int, ...], str], ...]:
    found = _plan(Topology.from_key(key), shapes, optimize)
    return tuple((step.operands, equation) for step, equation in zip(found.steps, found.equations, strict=True))


def contract_key(key: TopologyKey, tensors: Sequence[Tensor], optimize: str = "auto") -> Tensor:
    """What `contract` does, in steps that `torch.compile` can trace; sizes become constants of the compiled code."""
    recipe = _recipe(key, tuple(tuple(index(n) for n in t.shape) for t in tensors), optimize)
    operands = _fill_constants([constant_of(k) for k in key[2]], tensors)
    return _run(recipe, operands, is_complex=any(t.is_complex() for t in tensors))


def contract(topology: Topology, tensors: Sequence[Tensor], *, optimize: str = "auto") -> Tensor:
    """The dense tensor of a network.

    Args:
        topology: the network.
        tensors: its parameter nodes.
        optimize: how the order is found (see `plan`).

    Example:
        >>> import torch
        >>> from tnkit.network import Topology, contract
        >>> contract(Topology.parse("ij,jk->ik"), (torch.ones(2, 3), torch.ones(3, 4)))[0, 0]
        tensor(3.)
    """
    if torch.compiler.is_compiling():
        return contract_key(topology.key(), tensors, optimize)
    shapes = tuple(tuple(t.shape) for t in tensors)
    return _plan(topology, shapes, optimize).run(tensors)
