"""CompletionMethod: one algorithm as a frozen config. CompletionProblem: what it gets. CompletionFit: what it gives.

A method is registered under its name in `tnkit.registry.COMPLETIONS`; its defaults are the class's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.completion.observations import Observations
from tnkit.errors import OptionError
from tnkit.formats import Layout
from tnkit.registry import COMPLETIONS
from tnkit.solvers import Control, Status, StepInfo

__all__ = ["NOTHING_MISSING", "CompletionFit", "CompletionMethod", "CompletionProblem", "own_layout", "register"]

NOTHING_MISSING = Status(
    "nothing_missing",
    True,
    "every entry is observed, so `filled` is the array itself; what format= or method= names was fitted to all of it",
)


@dataclass(frozen=True, slots=True, eq=False)
class CompletionProblem:
    """A completion to be done.

    Attributes:
        observations: finite, in an engine dtype; never to be changed.
        layout: the format over the user's shape; None for methods that fit no format.
        ranks: one a bond, or None where the method chooses.
        rng: random numbers.
        control: deadline and progress; steps and tolerance are the method's own.
        aside: other entries, by which a method that compares candidates does so instead of holding out some of its own;
            methods need not.
    """

    observations: Observations
    layout: Layout | None
    ranks: tuple[int, ...] | None
    rng: torch.Generator
    control: Control
    aside: Observations | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CompletionFit:
    """What a method gives.

    Attributes:
        tensors: in the order of the layout's topology, or None where the method fits no format.
        dense: the completed array, or None where there are tensors or a function.
        heldout_error: relative error on observed entries that were held out, or None where none were.
        train_error: relative error on all observed entries.
        status: how it ended.
        history: the steps; their error is that of the held-out entries where some are held out.
        std: from (M, d) indices to (M,) standard deviations of the model there, where the method knows them.
        function: from (M, d) indices to (M,) values, where the method has neither tensors nor a dense array.
        layout: of the tensors, where the method has chosen the network itself.
        settled: the method with the choices that held-out entries made, for another run without holding out.
    """

    tensors: tuple[Tensor, ...] | None
    dense: Tensor | None
    heldout_error: float | None
    train_error: float
    status: Status
    history: tuple[StepInfo, ...] = ()
    std: Callable[[Tensor], Tensor] | None = None
    function: Callable[[Tensor], Tensor] | None = None
    layout: Layout | None = None
    settled: CompletionMethod | None = None


class CompletionMethod(ABC):
    """One algorithm. Concrete ones are final frozen dataclasses whose fields are its options.

    Class attributes:
        name: in the registry.
        formats: whether it fits a format (any), or gives a dense array alone.
        only: the one format that it fits; empty for any.
        weights: whether it takes weights.
        summary: one sentence for tables.
    """

    name: ClassVar[str]
    formats: ClassVar[bool] = True
    only: ClassVar[str] = ""
    weights: ClassVar[bool] = True
    summary: ClassVar[str] = ""

    @abstractmethod
    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """Complete; on Ctrl-C and at the deadline with the best so far."""


def own_layout(method: CompletionMethod, problem: CompletionProblem) -> Layout:
    """The layout of a problem, if it is of the one format that the method fits.

    Raises:
        OptionError: another format.
    """
    layout = problem.layout
    assert layout is not None
    if layout.name != method.only or layout.tensorization is not None:
        raise OptionError(
            f'method "{method.name}" fits format "{method.only}" alone, and "{layout.name}" was asked for. '
            f'Use format "{method.only}", or leave format out.'
        )
    return layout


def register(method: type[CompletionMethod]) -> type[CompletionMethod]:
    """Make a method known under its name."""
    COMPLETIONS.register(method.name, method)
    return method
