"""Method: one algorithm as a frozen config. Problem: what it gets. Fit: what it gives.

A method is registered under its name in `tnkit.registry.METHODS`; its defaults are the class's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.formats import FormatSpec, Layout
from tnkit.solvers import DIRECT, Control, Status, StepInfo

__all__ = ["Fit", "Method", "Problem", "Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked; all that is given holds at once, and at least one is given.

    Attributes:
        ranks: alone: the ranks of the result (smaller where a rank cannot help); otherwise upper limits.
        eps: relative Frobenius error.
        max_params: stored entries of the tensors (entries, not real numbers: a complex one counts once).
    """

    ranks: tuple[int, ...] | None = None
    eps: float | None = None
    max_params: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """A decomposition to be done.

    Attributes:
        x: the tensorized array: an engine dtype, finite, of a norm whose square is safe; never to be changed.
        norm: its Frobenius norm, above 0.
        layout: the format over the user's shape; `x.shape == layout.inner_shape`.
        spec: where the layout came from.
        target: what is asked.
        rng: random numbers.
        control: deadline and progress; `max_steps` and `tol` are the method's own.
    """

    x: Tensor
    norm: float
    layout: Layout
    spec: FormatSpec
    target: Target
    rng: torch.Generator
    control: Control

    @property
    def max_ranks(self) -> tuple[int, ...]:
        """Upper limits of the ranks: those asked for, or what the shape admits."""
        return self.layout.caps if self.target.ranks is None else self.target.ranks

    @property
    def error2_allowed(self) -> float | None:
        """(eps·norm)², or None where no eps is given."""
        return None if self.target.eps is None else (self.target.eps * self.norm) ** 2


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """What a method gives.

    Attributes:
        tensors: in the order of the layout's topology.
        rel_error: of the tensorized array, or None where it is still to be measured.
        error_kind: "exact", "bound" or "estimate".
        status: how it ended.
        history: the steps.
    """

    tensors: tuple[Tensor, ...]
    rel_error: float | None = None
    error_kind: str = "exact"
    status: Status = DIRECT
    history: tuple[StepInfo, ...] = ()


class Method(ABC):
    """One algorithm. Concrete ones are final frozen dataclasses whose fields are its options.

    Class attributes:
        name: in the registry.
        formats: names of the formats that it fits, or ("*",) for any topology.
        accepts: which of "rank", "eps", "budget" it meets by itself.
        needs: "dense", or the kind of source that it works on ("entries", "sparse", "slabs").
        deterministic: whether it uses no random numbers.
        summary: one sentence for tables and `explain`.
    """

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    needs: ClassVar[str] = "dense"
    accepts: ClassVar[frozenset[str]] = frozenset({"rank", "eps", "budget"})
    deterministic: ClassVar[bool] = True
    summary: ClassVar[str] = ""

    @abstractmethod
    def fit(self, problem: Problem) -> Fit:
        """Decompose.

        Returns:
            Tensors that keep every limit of the target, or come as near as they can with a status that says so.
        """

    @classmethod
    def automatic(cls) -> Method:
        """The config that the automatic choice takes: the defaults, unless a method says otherwise."""
        return cls()

    @property
    def iterative(self) -> bool:
        """Whether it goes in steps: such a method has an option `max_steps`."""
        return any(f.name == "max_steps" for f in fields(self))  # type: ignore[arg-type]

    def takes(self, format_name: str) -> bool:
        """Whether it fits this format."""
        return "*" in self.formats or format_name in self.formats

    def suits(self, layout: Layout) -> bool:
        """Whether it fits this very layout, where the format's name does not say enough (a tree among networks)."""
        return True
