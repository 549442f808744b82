"""Form: how factors make a weight and act on an input. Static values; the tensors are given to every call.

A form knows nothing of layer types: a matrix form serves linear layers, embeddings and the matrices of recurrent layers
alike, a kernel form serves convolutions of every kind. A new one is one file here and one registration.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from tnkit.nn.forms.convolution import Convolution
from tnkit.registry import Registry

__all__ = ["FORMS", "Factors", "Form", "KernelForm", "MatrixForm", "form_from_config"]

Factors: TypeAlias = "Mapping[str, Tensor]"

#: Forms by kind, for reading them from a file.
FORMS: Registry[type[Form]] = Registry("form of a layer's weight")


@dataclass(frozen=True, slots=True)
class Form(abc.ABC):
    """Base of all forms. Fields are plain values that JSON can hold."""

    kind: ClassVar[str]

    @property
    @abc.abstractmethod
    def ranks(self) -> tuple[int, ...]:
        """The ranks, for people to read."""

    @abc.abstractmethod
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter by its name in the module."""

    def buffers(self) -> dict[str, Tensor]:
        """Integer tensors that are stored as well, with a value to begin with."""
        return {}

    def config(self) -> dict[str, Any]:
        """The form in values that JSON can hold; `form_from_config` reads it."""
        return {"kind": self.kind, **{f.name: _plain(getattr(self, f.name)) for f in fields(self)}}


@dataclass(frozen=True, slots=True)
class MatrixForm(Form):
    """A form of a matrix W.

    Attributes:
        m: rows of W.
        n: columns of W.
    """

    m: int
    n: int

    @abc.abstractmethod
    def dense(self, t: Factors) -> Tensor:
        """W, (m, n)."""

    @abc.abstractmethod
    def apply(self, t: Factors, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """W x + b for x of shape (…, n): (…, m)."""

    def pick(self, t: Factors, ids: Tensor) -> Tensor:
        """The rows of W at integer positions of any shape: (*ids, n)."""
        return torch.nn.functional.embedding(ids, self.dense(t))


@dataclass(frozen=True, slots=True)
class KernelForm(Form):
    """A form of a convolution kernel.

    Attributes:
        groups: g.
        outs: output channels of each group.
        ins: input channels of each group.
        kernel: spatial sizes.
    """

    groups: int
    outs: int
    ins: int
    kernel: tuple[int, ...]

    @abc.abstractmethod
    def dense(self, t: Factors) -> Tensor:
        """The kernels of the groups, (g, outs, ins, *kernel)."""

    def convolve(self, t: Factors, x: Tensor, how: Convolution) -> Tensor:
        """The convolution of x, without bias."""
        return how(x, self.dense(t).flatten(0, 1), self.groups)

    def ones(self) -> tuple[int, ...]:
        """The spatial sizes of a pointwise kernel."""
        return (1,) * len(self.kernel)

    @property
    def is_pointwise(self) -> bool:
        """Whether the kernel has one position."""
        return all(k == 1 for k in self.kernel)


def form_from_config(config: Mapping[str, Any]) -> Form:
    """The form that `Form.config` describes.

    Raises:
        UnknownNameError: a kind that is not known.
    """
    values = {name: _tuples(value) for name, value in config.items() if name != "kind"}
    return FORMS.get(config["kind"])(**values)


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
