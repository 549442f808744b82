"""Opening: a layer that holds several weights becomes one whose weights are linear layers inside it.

Everything that is done to linear layers is then done to these: calibration, ranks, formats, reports. The open layer
keeps the face of the closed one. A new kind is one file here and one registration.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar, TypeAlias

from torch import Tensor, nn

from tnkit.registry import Registry

__all__ = ["OPENINGS", "Memo", "Opening", "dense_linear", "opening_of", "part_of"]

#: Parts of parameters that were made already, so that what was tied stays tied.
Memo: TypeAlias = "dict[tuple[int, int], nn.Parameter]"

#: Kinds of layers that can be opened.
OPENINGS: Registry[Opening] = Registry("layer that can be opened")


class Opening(abc.ABC):
    """One kind of layer that holds several weights.

    Attributes:
        dense: the layer's class.
        open: the class of the open layer.
    """

    dense: ClassVar[type[nn.Module]]
    open: ClassVar[type[nn.Module]]

    def fits(self, layer: nn.Module) -> bool:
        """Whether this is such a layer, closed, and computes as its class does."""
        return (
            isinstance(layer, self.dense)
            and not isinstance(layer, self.open)
            and type(layer).forward is self.dense.forward
            and all(
                "weight" not in n or isinstance(p, nn.Parameter) for n, p in layer._parameters.items() if p is not None
            )
        )

    @abc.abstractmethod
    def opened(self, layer: Any, memo: Memo) -> nn.Module:
        """The open layer; its parameters are parts of the closed one's memory."""

    @abc.abstractmethod
    def closed(self, layer: Any) -> nn.Module:
        """The closed layer with the weights that the open one stands for."""


def opening_of(layer: nn.Module) -> Opening | None:
    """How a layer is opened; None if it is not of such a kind, or open already."""
    return next((kind for kind in OPENINGS.items().values() if kind.fits(layer)), None)


def part_of(whole: nn.Parameter, start: int, stop: int, memo: Memo) -> nn.Parameter:
    """Rows of a parameter as a parameter that shares its memory."""
    key = (id(whole), start)
    if key not in memo:
        memo[key] = (
            whole if stop - start == len(whole) else nn.Parameter(whole.detach()[start:stop], whole.requires_grad)
        )
    return memo[key]


def dense_linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    """A linear layer with these very parameters."""
    m, n = weight.shape
    layer = nn.Linear(n, m, bias=False, device="meta")
    layer.weight = weight
    layer.bias = bias  # type: ignore[assignment]
    return layer


def detached(weight: Tensor, like: nn.Module) -> nn.Parameter:
    """A weight in memory of its own, trained if the layer is."""
    return nn.Parameter(weight.detach().clone(), any(p.requires_grad for p in like.parameters()))
