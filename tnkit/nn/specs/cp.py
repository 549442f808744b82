"""CPLayer: a convolution as a sum of rank-one terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tnkit.formats import as_spec
from tnkit.nn.forms import CPForm, Form
from tnkit.nn.specs.base import LAYER_SPECS, Fitted
from tnkit.nn.specs.ladder import LadderSpec, Structure
from tnkit.nn.views import WeightView
from tnkit.tensorize import Tensorization

__all__ = ["CPLayer"]


@dataclass(frozen=True, slots=True, repr=False)
class CPLayer(LadderSpec):
    """A convolution as 1×1 (i → R), a depthwise convolution along each axis, and 1×1 (R → o).

    References:
        Lebedev et al. (2015), arXiv 1412.6553.

    Example:
        >>> from tnkit.nn import CPLayer
        >>> CPLayer(rank=8)
        CPLayer(rank=8)
    """

    name: ClassVar[str] = "cp"
    n_ranks: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("kernel",)

    def structure(self, view: WeightView) -> Structure:
        """CP over (o, i, *k)."""
        spec = as_spec("cp")
        return Structure(spec, Tensorization.start(view.shape), spec.layout(view.shape))

    def macs(self, view: WeightView, structure: Structure, ranks: tuple[int, ...]) -> tuple[int, int]:
        """The last axis and the last 1×1 at the output, the others at the input."""
        (r,), (o, i, *kernel) = ranks, view.shape
        return view.groups * r * (i + sum(kernel[:-1])), view.groups * r * (kernel[-1] + o)

    def form(self, view: WeightView, fitted: Fitted) -> tuple[Form, Mapping[str, Tensor]]:
        """The factors, each with its share of the terms' weights and of their norms."""
        weights, last, first, *axes = fitted.tensors()
        factors = _balanced(weights, [last, first, *axes])
        r, (o, i, *_) = weights.shape[-1], view.shape
        turned = {f"axis{k}": factor.mT for k, factor in enumerate(factors[2:])}
        names = {"last": factors[0], "first": factors[1].mT, **turned}
        return CPForm(view.groups, o, i, view.kernel, r), names


def _balanced(weights: Tensor, factors: list[Tensor]) -> list[Tensor]:
    """Factors (…, n, r) of equal column norms whose terms are the same, weights (…, r) included."""
    norms = [f.norm(dim=-2, keepdim=True).clamp_min(1e-300) for f in factors]
    whole = weights[..., None, :].abs()
    for norm in norms:
        whole = whole * norm
    each = whole ** (1.0 / len(factors))
    balanced = [f / norm * each for f, norm in zip(factors, norms, strict=True)]
    return [balanced[0] * weights[..., None, :].sign(), *balanced[1:]]


LAYER_SPECS.register(CPLayer.name, CPLayer)
