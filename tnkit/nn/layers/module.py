"""FactoredModule: a compressed layer as one plain module that keeps the face of the layer it replaces."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from tnkit.errors import OptionError
from tnkit.nn.forms import Form, form_from_config
from tnkit.nn.layers.kept import KeptWeight
from tnkit.nn.specs.base import EXECUTIONS, Execution
from tnkit.nn.timing import race_ms

__all__ = ["FactoredModule"]

F = TypeVar("F", bound=Form)


class FactoredModule(nn.Module, abc.ABC, Generic[F]):
    """Base of the compressed layers: factors as parameters, a static form, and a `weight` that is made when it is read.

    Execution is "factored" (the factors, one after the other), "materialized" (by the dense weight) or "auto": at the
    first call of each shape both are timed and the faster one is kept for that shape. While torch traces, compiles or
    exports, "auto" means "factored".

    In eval mode, where nothing asks for gradients of the factors, the dense weight that is in use stays in memory
    beside them until they change, so that "auto" is not slower than a dense layer; "factored" never makes it. It is in
    no copy, file or count. A change by `.data` is not seen: call `train()` or `eval()` after one.

    Attributes:
        form: how the factors make the weight and act; their names and shapes are its.
        execution: as above.
    """

    kind: ClassVar[str]
    form: F
    execution: Execution
    bias: nn.Parameter | None
    _faster: dict[tuple[Any, ...], bool]
    _kept: KeptWeight
    #: Whether a dense weight may stay in memory.
    keeps: ClassVar[bool] = True

    def __init__(self, form: F, bias: int | None, execution: Execution, dtype: torch.dtype | None) -> None:
        """A layer of zeros; layer types and loading fill it.

        Args:
            form: of the weight.
            bias: its size, or None for no bias.
            execution: see the class.
            dtype: of the parameters.

        Raises:
            OptionError: no such execution.
        """
        super().__init__()
        if execution not in EXECUTIONS:
            raise OptionError(f"{type(self).__name__}: execution={execution!r}. Use one of {', '.join(EXECUTIONS)}.")
        self.form, self.execution = form, execution
        self._names = (*form.parameters(), *form.buffers())
        for name, shape in form.parameters().items():
            self.register_parameter(name, nn.Parameter(torch.zeros(*shape, dtype=dtype)))
        for name, value in form.buffers().items():
            self.register_buffer(name, value)
        self.register_parameter("bias", None if bias is None else nn.Parameter(torch.zeros(bias, dtype=dtype)))
        self._faster, self._kept = {}, KeptWeight()

    @property
    def ranks(self) -> tuple[int, ...]:
        """Of the form."""
        return self.form.ranks

    def factors(self) -> dict[str, Tensor]:
        """Parameters and buffers of the form, by name."""
        return {name: getattr(self, name) for name in self._names}

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
    def face(self) -> dict[str, Any]:
        """What the constructor takes beside form, bias, execution and dtype; JSON-able."""

    def config(self) -> dict[str, Any]:
        """The structure, JSON-able; `from_config` takes it."""
        rest = {"bias": self.bias is not None, "execution": self.execution}
        return {"form": self.form.config(), **self.face(), **rest}

    @classmethod
    def from_config(cls, config: dict[str, Any], dtype: torch.dtype) -> Self:
        """A module of that structure whose parameters hold zeros."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k != "form"}
        make: Any = cls  # whose constructor takes its face
        made: Self = make(form_from_config(config["form"]), dtype=dtype, **values)
        return made

    @abc.abstractmethod
    def sample_size(self, x: Tensor) -> tuple[int, ...]:
        """What of the input's shape decides which execution is faster."""

    def dense_weight(self, make: Callable[[], Tensor]) -> Tensor:
        """What `make` makes of the factors, or the same of an earlier call where that is kept."""
        may = self.keeps and not self.training and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
        factors = self.factors().values() if may else ()
        return self._kept.of(factors, make) if may and KeptWeight.may_keep(factors) else make()

    def train(self, mode: bool = True) -> Self:
        """As nn.Module does; a dense weight that is kept is forgotten."""
        self._kept.drop()
        return super().train(mode)

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
        keeping = self.keeps and not self.training and KeptWeight.may_keep(self.parameters(recurse=False))
        key = (*self.sample_size(x), x.dtype, x.device, keeping)
        if key not in self._faster:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not keeping):
                calls = [lambda: self.forward_factored(x), lambda: self.forward_materialized(x)]
                factored, dense = map(min, race_ms(calls, x.device, runs=5, time_limit_s=0.05))
            self._faster[key] = factored <= dense
            if all(won for (*_, kept), won in self._faster.items() if kept):
                self._kept.drop()
        return self._faster[key]

    def n_factor_params(self) -> int:
        """Parameters of the factors, without the bias."""
        return sum(p.numel() for name, p in self.named_parameters(recurse=False) if name != "bias")

    def extra_repr(self) -> str:
        """What print shows."""
        face = ", ".join(f"{name}={value!r}" for name, value in self.face().items())
        form = f"form={self.form.kind}, ranks={self.ranks}"
        return f"{face}, {form}, bias={self.bias is not None}, execution={self.execution}"
