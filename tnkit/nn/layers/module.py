"""FactoredModule: a compressed layer as one plain module that keeps the face of the layer it replaces."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tnkit.errors import OptionError
from tnkit.nn.specs import EXECUTIONS, Execution
from tnkit.nn.timing import measure_ms

__all__ = ["FactoredModule"]


class FactoredModule(nn.Module, abc.ABC):
    """Base of the compressed layers: factors as parameters, a static plan, and a `weight` that is made when it is read.

    Execution is "factored" (the factors, one after the other), "materialized" (the dense weight is made at each call)
    or "auto": at the first call of each shape both are timed and the faster one is kept for that shape. While torch
    traces, compiles or exports, "auto" means "factored".
    """

    kind: ClassVar[str]
    execution: Execution
    _faster: dict[tuple[Any, ...], bool]

    def __init__(self, execution: Execution) -> None:
        """Set the execution.

        Raises:
            OptionError: no such execution.
        """
        super().__init__()
        if execution not in EXECUTIONS:
            raise OptionError(f"{type(self).__name__}: execution={execution!r}. Use one of {', '.join(EXECUTIONS)}.")
        self.execution = execution
        self._faster = {}

    @property
    @abc.abstractmethod
    def weight(self) -> Tensor:
        """The dense weight, differentiable with respect to the factors."""

    @abc.abstractmethod
    def forward_factored(self, x: Tensor) -> Tensor:
        """The output by the factors."""

    @abc.abstractmethod
    def forward_materialized(self, x: Tensor) -> Tensor:
        """The output by the dense weight."""

    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """The structure, JSON-able; `from_config` takes it."""

    @classmethod
    @abc.abstractmethod
    def from_config(cls, config: dict[str, Any], dtype: torch.dtype) -> Self:
        """A module of that structure whose parameters hold zeros."""

    @abc.abstractmethod
    def sample_size(self, x: Tensor) -> tuple[int, ...]:
        """What of the input's shape decides which execution is faster."""

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output; the argument has the name that torch's own layers give it."""
        if self.execution == "factored" or (self.execution == "auto" and self._factored_is_faster(input)):
            return self.forward_factored(input)
        return self.forward_materialized(input)

    def _factored_is_faster(self, x: Tensor) -> bool:
        if (
            torch.compiler.is_compiling()
            or torch.jit.is_tracing()
            or type(x) not in (Tensor, nn.Parameter)
            or x.is_meta
        ):
            return True
        if x.is_nested or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
            return True
        key = (*self.sample_size(x), x.dtype, x.device)
        if key not in self._faster:
            with torch.no_grad():
                factored = measure_ms(lambda: self.forward_factored(x), x.device, runs=3, time_limit_s=0.02)
                dense = measure_ms(lambda: self.forward_materialized(x), x.device, runs=3, time_limit_s=0.02)
            self._faster[key] = factored <= dense
        return self._faster[key]

    def n_factor_params(self) -> int:
        """Parameters of the factors, without the bias."""
        return sum(p.numel() for name, p in self.named_parameters(recurse=False) if name != "bias")


def bucket(n: int) -> int:
    """`n` rounded up to a power of two, so that varying lengths share a measurement."""
    return 1 << max(n - 1, 0).bit_length()


def parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    """`value` as a parameter with dtype, device and requires_grad of `like`, in memory of its own."""
    data = value.detach().to(dtype=like.dtype, device=like.device, copy=True).contiguous()
    return nn.Parameter(data, requires_grad=like.requires_grad)
